"""What a dry run says that a run will cost."""

import json
from pathlib import Path
from typing import Any

from nlp_pipeline.kubeflow.costs import describe_costs
from nlp_pipeline.pipeline.parameters import pipeline_parameters


def costs(volume: Path, **values: Any) -> dict[str, str]:
    complete = {name: item.default for name, item in pipeline_parameters().items()}
    return describe_costs(complete | values, volume)


def test_pods_and_what_they_ask_for_at_once(tmp_path: Path) -> None:
    said = costs(tmp_path)
    assert said["pods"].startswith("7 of steps, one after the other; 1 that serve")
    assert said["at once"].startswith(
        "cpu 0.5, memory 2Gi while training, which uses at most 12Gi; other steps cpu 250m"
    )
    several = costs(tmp_path, train_gpus="4", train_nodes=2, train_cpu="2", deploy=False)
    assert several["pods"] == "7 of steps, one after the other, and while it trains 2 that train"
    assert several["at once"].startswith("cpu 6, memory 6Gi, gpu 12 while training, which uses at most 36Gi")


def test_storage_is_known_by_the_base_models_size(tmp_path: Path) -> None:
    assert "is not on this machine: for each weight 5 bytes to 8 bytes for the release" in costs(tmp_path)["storage"]
    (tmp_path / "model.safetensors").write_bytes(bytes(40_000_000))
    said = costs(tmp_path, base_model=str(tmp_path))["storage"]
    assert "50.0 MB to 80.0 MB for the release, 40.0 MB for the run's copy of the model, at most 360.0 MB" in said


def test_the_time_is_by_a_recorded_rate_and_says_of_what(tmp_path: Path) -> None:
    said = costs(tmp_path)["time"]
    assert " for each 1,000 rows, 2 epochs, where" in said and "of benchmarks/results.json (six layers" in said
    assert costs(tmp_path, train_gpus="1")["time"] == "not known: no rate on GPUs is recorded"
    run = tmp_path / "reviews" / "runs" / "run"
    run.mkdir(parents=True)
    facts = {"base_model": "/models/encoder", "device": "cpu", "samples_per_second": 50.0}
    (run / "training.json").write_text(json.dumps(facts))
    ours = {"model_name": "reviews", "base_model": "/mnt/encoder", "max_train_rows": 36_000, "epochs": 10.0}
    said = costs(tmp_path, **ours)["time"]
    assert said.startswith("training 60 min to 4.0 h for at most max_train_rows=36000, 10 epochs, where model and ")
    assert f"{run / 'training.json'} (the same model): 50 rows/s" in said
    assert costs(tmp_path, **ours, max_steps=100)["time"].startswith("training 32 s to 2 min for at most max_steps=100")
    assert "six layers" in costs(tmp_path, **ours | {"base_model": "another"})["time"]
