# Three images, by target:
#
#   steps        every step's packages and this one, so that pods install nothing: --compile --image IMAGE
#   server       what serves the archives with KServe, without Java and torch: --manifests --server-image IMAGE
#   torchserve   the same by TorchServe (--manifests --runtime-image IMAGE), and what serves on Vertex AI
#                (--set serving_image=IMAGE)
#
#   docker build --target server --tag nlp-pipeline-server:0.1.0 .
#   docker build --build-arg TORCH_INDEX=ADDRESS --target steps --tag nlp-pipeline-steps:0.1.0 .
#   docker build --build-arg ACCELERATOR=cuda --target steps --tag nlp-pipeline-steps:0.1.0-cuda .
ARG PYTHON_IMAGE=python:3.11-slim
# cpu or cuda: which build of torch.
ARG ACCELERATOR=cpu
# Address of a package index with that build; pip's own has torch with CUDA.
ARG TORCH_INDEX=

FROM ${PYTHON_IMAGE} AS server
# A stage sees only what it declares itself.
ARG ACCELERATOR
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1
WORKDIR /opt/nlp-pipeline
COPY constraints.txt src/nlp_pipeline/packages.py ./
RUN python packages.py "server-$ACCELERATOR" > server.txt \
 && pip install --constraint constraints.txt --requirement server.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-deps .
EXPOSE 8080 8081
# A number, by which Kubernetes can tell that it is not root.
USER 1000
ENTRYPOINT ["python", "-m", "nlp_pipeline.serving.server"]

FROM ${PYTHON_IMAGE} AS base
ARG ACCELERATOR
ARG TORCH_INDEX
RUN case "$ACCELERATOR,$TORCH_INDEX" in \
      cpu,) echo "pass --build-arg TORCH_INDEX=ADDRESS of PyTorch's CPU builds (pytorch.org, \"Get started\"), or ACCELERATOR=cuda" >&2; exit 1 ;; \
      cpu,*|cuda,*) ;; \
      *) echo "ACCELERATOR is '$ACCELERATOR': it must be cpu or cuda" >&2; exit 1 ;; \
    esac
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    HF_HOME=/tmp/huggingface
# torch looks up the name of its user.
RUN useradd --uid 1000 --create-home nlp
WORKDIR /opt/nlp-pipeline
COPY constraints.txt src/nlp_pipeline/packages.py ./
# torch in a layer of its own, which both images share.
RUN python packages.py torch > torch.txt \
 && pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint constraints.txt --requirement torch.txt \
 && python -c "import os, sys, torch; found = 'cuda' if torch.version.cuda else 'cpu'; wanted = os.environ['ACCELERATOR']; sys.exit(found != wanted and f'this torch is for {found}, not for {wanted}: is TORCH_INDEX right?')"

FROM base AS torchserve
ARG ACCELERATOR
RUN python packages.py "torchserve-$ACCELERATOR" > torchserve.txt \
 && pip install --constraint constraints.txt --requirement torchserve.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-deps .
EXPOSE 8080 8082
USER 1000
ENTRYPOINT ["python", "-m", "nlp_pipeline.serving.runtime"]

FROM base AS steps
RUN python packages.py steps > steps.txt \
 && pip install --constraint constraints.txt --requirement steps.txt \
 && pip install --no-deps "$(python packages.py kfp)"
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-deps .
# The volume must be writable for this user; where it is not: --build-arg STEPS_USER=0.
ARG STEPS_USER=1000
USER ${STEPS_USER}
