"""A FastAPI server on transformers' own pipeline, as its documentation shows it: uvicorn runs it in two processes."""

import os

import fastapi
import pydantic
import transformers

app = fastapi.FastAPI()
classify = transformers.pipeline("text-classification", model=os.environ["MODEL"], device="cpu")


class Request(pydantic.BaseModel):
    """A request of the KServe v1 protocol."""

    instances: list[str]


@app.post("/v1/models/bench:predict")
async def predict(request: Request) -> dict[str, object]:
    """Classifies the texts of a request, one request at a time in each process."""
    return {"predictions": classify(request.instances, truncation=True, max_length=int(os.environ["MAX_LENGTH"]))}
