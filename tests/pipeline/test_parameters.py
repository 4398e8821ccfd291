import pytest

from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.parameters import check_run, parse_settings, pipeline_parameters, refuse_passwords


def test_values_get_their_parameters_types() -> None:
    values = parse_settings(["epochs=3", "batch_size=8", "model_name=a=b", "evaluation_data=", "epochs=0.5"])
    assert values == {"epochs": 0.5, "batch_size": 8, "model_name": "a=b", "evaluation_data": ""}
    assert isinstance(parse_settings(["epochs=3"])["epochs"], float)
    assert parse_settings(["deploy=False", "istio_sidecar=true"]) == {"deploy": False, "istio_sidecar": True}
    placed = parse_settings(['node_selector={"pool": "gpu"}', 'tolerations=[{"key": "gpu", "operator": "Exists"}]'])
    assert placed == {"node_selector": {"pool": "gpu"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "--set 'epochs' has no '=': write --set NAME=VALUE, as in --set epochs=3"),
        ("epoch=3", "the pipeline has no parameter 'epoch'; did you mean 'epochs'?"),
        ("qqq=3", "the parameters are train_data, evaluation_data"),
        ("batch_size=2.5", "batch_size is an integer, as in --set batch_size=32"),
        ("epochs=nan", "epochs is a number, as in --set epochs=2.0"),
        ("node_selector=gpu", "node_selector is an object of JSON, as in --set node_selector={}"),
        ("tolerations={}", "tolerations is a list of JSON, as in --set tolerations=[]"),
        ("deploy=no", "deploy is true or false, as in --set deploy=true"),
    ],
)
def test_wrong_settings(setting: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_settings([setting])
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_parameters_are_those_of_the_signature() -> None:
    parameters = pipeline_parameters()
    assert next(iter(parameters)) == "train_data" and parameters["train_data"].default is None
    assert parameters["min_agreement"].default == 0.97 and parameters["min_agreement"].kind is float
    assert all(one.description.endswith(".") for one in parameters.values())


@pytest.mark.parametrize(
    "value",
    ["https://ann:S3CRET@host/x.csv", "s3://AK:S3CRET@bucket", "http://S3CRET@host:80/a@b",
     '["s3://bucket/", "https://ann:S3CRET@host/x.csv"]'],
)  # fmt: skip
def test_an_address_with_a_password_is_refused_and_not_shown(value: str) -> None:
    with pytest.raises(UsageError, match=r"^train_data holds a user or a password") as raised:
        refuse_passwords({"epochs": 1.0, "train_data": value})
    assert "S3CRET" not in str(raised.value)
    refuse_passwords({"train_data": "s3://bucket/a@b.csv", "label_column": "a@b", "gateway": "http://host:80"})


def test_each_address_of_a_list_is_one_that_the_steps_see() -> None:
    values = {"train_data": '["s3://bucket/a,b.csv", "/mnt/nlp-pipeline/b.csv"]', "base_model": "x"}
    check_run(values, "kubeflow", "/mnt/", "a path below /mnt")
    with pytest.raises(UsageError, match=r"^train_data=here.csv: the steps don't see this machine's files"):
        check_run(
            values | {"train_data": '["s3://bucket/a.csv", "here.csv"]'}, "kubeflow", "/mnt/", "a path below /mnt"
        )
