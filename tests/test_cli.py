import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nlp_pipeline import __version__
from nlp_pipeline.cli import main, make_parser
from nlp_pipeline.errors import UsageError
from nlp_pipeline.pipeline.compiling import find_targets
from nlp_pipeline.pipeline.parameters import PIPELINES
from nlp_pipeline.platforms import PLATFORMS, VERBS, find_verb

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "nothing to do: give one of --local"),
        ("--local --serve", "--local and --serve exclude each other"),
        ("--nope", "unrecognized arguments: --nope; see --help"),
        ("--predict", "--predict: expected at least one argument"),
        (
            "--predict --worse",
            "--predict: expected at least one argument; a text that looks like a flag goes as --predict=TEXT",
        ),
        ("--local --check", "--check goes with --compile, not with --local"),
        ("--compile --set epochs=1", "--set goes with a run"),
        ("--compile --image Team/x", "--image 'Team/x' is no name of an image: write it in lower case, as in"),
        ("--compile --output /dev/null/x", "/dev/null/x can't be written ("),
        ("--manifests --runtime-image X", "--runtime-image 'X' is no name of an image"),
        ("--manifests", "--manifests needs a namespace, as a RoleBinding names it: add --set namespace=NAME"),
        ("--manifests --set namespace=t --steps-account a/b/c", "--steps-account 'a/b/c' is no service account: write"),
        ("--serve --port 70000", "--port 70000: give a port from 1 to 65535"),
        ("--predict x --endpoint http://x --set model_name=m --release y", "y is no release"),
        ("--predict x --endpoint http://x --deployed", "--endpoint and --deployed exclude each other"),
        ("--predict x --deployed --release y", "--release and --deployed exclude each other"),
        ("--predict x --deployed", "which model? add --set model_name=NAME"),
        ("--deploy", "--deploy needs --release: a folder, pvc://claim/model/releases/digest or s3://..."),
        (
            "--deploy --release pvc://claim/x",
            "--release pvc://claim/x is no release: give its folder, pvc://claim/model",
        ),
        ("--local --dry-run", "--dry-run goes with --submit or --upload or"),
        ("--drift", "--drift needs --data FILE: texts to compare with those that a release was trained on"),
        ("--batch --to x", "--batch needs --data FILE, the rows to classify, and --to DIR, a folder for the results"),
        ("--batch --data x.csv --to x --set pods=2", "pods=2 is for --pipeline batch; --batch takes --release DIR"),
        ("--submit --pipeline batch --set data=/x --set to=out", "to=out: the steps don't see this machine's files"),
        ("--submit --pipeline drift", "data is not set: --set data=URL, or a path on the volume"),
        ("--submit --pipeline drift --set data=/x.csv --set threshold=0", "threshold is 0.0: it must be above 0"),
        ("--submit --pipeline drift --platform vertex", "--pipeline drift goes with --platform kubeflow, not vertex"),
        ("--runs --pipeline drift", "--pipeline goes with --compile or --submit"),
        ("--submit", "train_data is not set: --set train_data=URL, or a path on the volume"),
        ("--submit --set train_data=s3://b/x.csv", "no host: give --host URL, set NLP_PIPELINE_HOST"),
        (
            f"--submit --dry-run --namespace team-a --set train_data=s3://b/x.csv --set model_name={'a' * 48}",
            f"is too long by 7: {'a' * 48}-next-predictor-team-a, which KServe makes of it, may",
        ),
        (
            "--submit --dry-run --service-account Robot --set train_data=s3://b/x.csv",
            "service_account is 'Robot': it must be the name of a ServiceAccount",
        ),
        ("--upload --host kubeflow", "--host kubeflow is no address: write https://kubeflow.example.com"),
        ("--submit --wait x", "--submit --wait x: the run to follow is known; leave it out"),
        ("--wait", "--wait needs the run's id, or goes with --submit"),
        ("--submit --timeout 5", "--timeout takes seconds above 0, and goes with --wait"),
        ("--runs --count 0", "--count 0: give 1 or more"),
        ("--upload --config nowhere", "--config nowhere: there is no such file"),
        ("--local --set deploy=true", "deploy=true: --local has no cluster; deploy its release with --deploy"),
        ("--predict x --endpoint x:80", "is no address: write http://host:port or https://host"),
        ("--local --set train_data=nowhere.csv", "train_data=nowhere.csv: there is no such file"),
        ("--local --set evaluation_data=nowhere.csv", "evaluation_data is set but train_data is not"),
        ("--local --set min_agreement=97", "min_agreement is 97.0: it must be from 0 to 1, as 0.05 for 5%"),
        ("--local --set train_data=.", "'.' has no CSV, TSV, JSONL or Parquet file"),
        ("--serve --set model_name=", "model_name is '': it must be lower-case letters, digits and hyphens"),
        ("--local --set base_model={{$.Name}}", "base_model is '{{$.Name}}': it must be without '{{', which begins a"),
        ("--serve --release .", ". is no release: it has no sound release.json"),
        ("--serve", "no release of any model in outputs/volume: make one with --local"),
        ("--predict x --set model_name=m", "no release of m in outputs/volume"),
    ],
)
def test_bad_usage_is_one_line_and_2(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("NLP_PIPELINE_", "KF_PIPELINES_"))]:
        monkeypatch.delenv(name)
    assert main(line.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ") and message in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--predict", "good", ""],
        ["--serve", "--release="],
        ["--local", "--set", ""],
        ["--deploy", "--release", "x", "--rows", ""],
        ["--wait", ""],
    ],
)
def test_a_variable_of_the_shell_that_is_not_set_is_refused_by_the_flags_name(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    *_, flag = [item for item in arguments if item.startswith("--")]
    assert capsys.readouterr().err == (
        f"error: argument {flag.rstrip('=')}: it is empty: give a value, or leave the flag out; see --help\n"
    )


@pytest.mark.parametrize(
    ("argv", "texts"),
    [
        (["-bad"], ["-bad"]),
        (["good", "-horrible", "-h0"], ["good", "-horrible", "-h0"]),  # -h is a flag
        (["-1", "-5 stars", "-"], ["-1", "-5 stars", "-"]),
        (["---", "--- never again", "--Worse"], ["---", "--- never again", "--Worse"]),
        (["--json is no film", "--x=y is none"], ["--json is no film", "--x=y is none"]),
        (["a=b", "-a=b"], ["a=b", "-a=b"]),
        (["\u2014 great", "\U0001f600", " ", "{{$.Name}}"], ["\u2014 great", "\U0001f600", " ", "{{$.Name}}"]),
    ],
)
def test_a_text_may_begin_with_a_hyphen(argv: list[str], texts: list[str]) -> None:
    arguments = make_parser().parse_args(["--json", "--predict", *argv])
    assert (arguments.predict, arguments.json) == (texts, True)
    assert make_parser().parse_args(["--predict", *argv, "--json", "--port", "1"]).predict == texts
    assert make_parser().parse_args(["--predict=--json", "--json"]).predict == ["--json"]


def test_an_endpoint_that_can_not_be_reached_is_a_failure_not_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--predict", "x", "--endpoint", "http://127.0.0.1:9/v1/models/m:predict"]) == 1
    assert "http://127.0.0.1:9/v1/models/m:predict can't be reached" in capsys.readouterr().err


def test_what_no_one_has_thought_of_is_one_line_too_and_debug_shows_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nlp_pipeline.pipeline.compiling.write_compiled", lambda *_: 1 / 0)
    assert main(["--compile"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: unexpected ZeroDivisionError: ") and err.endswith("--debug shows where\n")
    assert err.count("\n") == 1
    assert main(["--serve", "--release", "nowhere", "--debug"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_help_imports_nothing_that_takes_time() -> None:
    code = (
        "import json, sys\nfrom nlp_pipeline.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *help_text, modules = done.stdout.splitlines()
    slow = {"kfp", "torch", "transformers", "datasets", "pyarrow", "numpy", "httpx", "rich", "yaml", "pydantic"}
    assert {*slow, "requests"}.isdisjoint(json.loads(modules))
    for heading in (
        "on this machine:",
        "on Kubeflow Pipelines, or with --platform vertex on Vertex AI:",
        "exit codes:",
    ):
        assert heading in help_text


def test_the_console_script_is_the_same_program() -> None:
    for command in (
        [sys.executable, str(ROOT / "pipeline_v2.py")],
        [str(Path(sys.executable).parent / "nlp-pipeline")],
    ):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"pipeline_v2.py {__version__}\n"


def test_in_a_clone_where_nothing_is_installed_a_line_says_what_to_run() -> None:
    command = [sys.executable, "-I", "-S", str(ROOT / "pipeline_v2.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: nlp_pipeline is not installed") and "run make setup" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_flag(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(option in script for action in make_parser()._actions for option in action.option_strings)
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_what_compiling_and_manifests_give_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--compile", "--json"]) == 0
    files = [f"compiled/nlp_pipeline{end}.yaml" for end in ("", "_vertex", "_drift", "_batch")]
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    sizes = result.pop("budget")["kubeflow"]
    assert list(result.values()) == files and sizes["image"]["uncompressed"] < sizes["embedded"]["uncompressed"]
    lines = printed.err.splitlines()
    names = [f"{file}{image}" for file in files for image in ("", " with --image")]
    assert [line.partition(": code ")[0] for line in lines] == names
    assert f"compressed {sizes['embedded']['compressed']:,} of 700,000" in lines[0]
    assert main(["--compile", "--check", "--json"]) == 0
    checked = json.loads(capsys.readouterr().out)
    assert checked["stale"] is False and checked["budget"]["kubeflow"] == sizes
    for file in files[:2]:
        Path(file).write_text("# old\n")
    assert main(["--compile", "--check", "--json"]) == 1
    checked = json.loads(capsys.readouterr().out)
    assert checked["stale"] is True and checked["error"] == f"{files[0]} and {files[1]} are stale: write them anew " + (
        "with --compile"
    )
    assert main(["--compile", "--check", "--pipeline", "drift"]) == 0
    assert main(["--manifests", "--set", "namespace=team", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["kind"] == "List" and "Role" in [item["kind"] for item in listed["items"]]


def test_what_is_compiled_may_go_into_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [f"nlp_pipeline{end}.yaml" for end in ("", "_vertex", "_drift", "_batch")]
    Path("there").mkdir()
    for output, folder in (("new/", "new"), ("there", "there"), (".", "."), (f"{tmp_path}/a/b/", "a/b")):
        assert find_targets(None, output) == {
            pipeline: Path(output, name) for pipeline, name in zip(PIPELINES, names, strict=True)
        }
        assert find_targets("vertex", output)["vertex"].resolve() == tmp_path / folder / names[1]
    assert find_targets("vertex", "new") == {"vertex": Path("new")}
    assert main(["--compile", "--platform", "kubeflow", "--output", "new/"]) == 0
    assert main(["--compile", "--check", "--platform", "kubeflow", "--output", "new"]) == 0
    assert sorted(path.name for path in Path("new").iterdir()) == sorted(names[:1] + names[2:])
    assert find_targets(None, "new.yaml", "drift") == {"drift": Path("new.yaml")}
    with pytest.raises(UsageError, match=r"^--pipeline drift is none of --platform vertex$"):
        find_targets("vertex", None, "drift")


def test_without_googles_components_one_platform_can_be_compiled_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google_cloud_pipeline_components", None)
    assert main(["--compile"]) == main(["--compile", "--platform", "vertex"]) == 2
    plain, vertex = capsys.readouterr().err.splitlines()
    assert vertex.startswith("error: --platform vertex needs more packages: pip install ")
    assert plain == f"{vertex}; or name one platform, as in --platform kubeflow" and not Path("compiled").exists()
    assert main(["--compile", "--platform", "kubeflow"]) == 0 and Path("compiled/nlp_pipeline.yaml").is_file()


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_the_same_on_both_platforms(verb: str) -> None:
    kubeflow, vertex = (inspect.signature(find_verb(platform, verb)) for platform in PLATFORMS)
    assert kubeflow == vertex and verb in make_parser().run


@pytest.mark.parametrize("flags", [["--completion", "bash"], ["--print-config", "--json"], ["--print-config"]])
def test_who_reads_only_the_beginning_gets_no_traceback(flags: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from nlp_pipeline.cli import main; sys.exit(main())", *flags]
    read, write = os.pipe()
    os.close(read)  # no one reads at all: the first write fails
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(command, cwd=tmp_path, stdout=closed, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "")
