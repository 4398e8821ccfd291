"""What goes wrong on the way, and what the real `kfp.Client` makes of it."""

import threading
from typing import Any

import httpx
import pytest
import urllib3

from tests.kubeflow.conftest import PARAMETERS, Connect, raised, run_of, uploaded
from tests.kubeflow.emulator import Kubeflow, kubeflow
from tests.kubeflow.tls import Authority


def test_errors_come_as_often_as_told(client: Any, k: Kubeflow) -> None:
    k.faults.fail(500, times=2)
    assert [raised(client.list_runs).status for _ in range(2)] == [500, 500]
    assert client.list_runs().runs is None
    k.faults.fail(503, on="POST .*/experiments$")
    assert client.list_experiments().total_size == 1
    error = raised(client.create_experiment, "reviews")
    assert (error.status, "upstream connect error" in error.body) == (503, True)
    assert len(k.api.experiments) == 1
    k.faults.fail(504, on="POST .*/experiments$", after=True)
    assert raised(client.create_experiment, "reviews").status == 504
    assert len(k.api.experiments) == 2
    assert k.faults.left == 0


def test_the_client_repeats_what_was_dropped_but_not_a_post(client: Any, k: Kubeflow) -> None:
    k.faults.drop(times=3)
    assert client.list_runs().runs is None
    k.faults.drop(times=4)
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        client.list_runs()
    for after, runs in ((False, 0), (True, 1)):
        k.faults.drop(on="POST .*/runs$", after=after)
        with pytest.raises(urllib3.exceptions.ProtocolError):
            run_again(client, k) if k.api.pipelines else run_of(client)
        assert len(k.api.runs) == runs


def run_again(client: Any, k: Kubeflow) -> Any:
    """Runs the pipeline that there is."""
    version, experiment = k.api.versions[0], k.api.experiments[0]["experiment_id"]
    ids = {"pipeline_id": version["pipeline_id"], "version_id": version["pipeline_version_id"]}
    return client.run_pipeline(experiment, "again", params=PARAMETERS, **ids)


def test_a_delete_whose_answer_is_lost_is_repeated_and_finds_nothing(client: Any, k: Kubeflow) -> None:
    run = run_of(client)
    k.faults.drop(on="DELETE", after=True)
    assert raised(client.delete_run, run.run_id).status == 404
    assert not k.api.runs


def test_the_client_heeds_retry_after_but_not_for_a_post(client: Any, k: Kubeflow) -> None:
    k.faults.fail(503, headers={"Retry-After": "0"})
    assert client.list_runs().runs is None
    k.faults.fail(503, headers={"Retry-After": "0"}, on="POST")
    assert raised(client.create_experiment, "reviews").status == 503


def test_health_is_asked_again_after_an_error_only(client: Any, k: Kubeflow) -> None:
    k.faults.fail(500, times=4)
    assert client.get_kfp_healthz(sleep_duration=0).multi_user is False
    k.faults.fail(500, times=5)
    with pytest.raises(TimeoutError, match="Failed getting healthz endpoint after 5 attempts"):
        client.get_kfp_healthz(sleep_duration=0)
    k.faults.drop(times=4)
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        client.get_kfp_healthz(sleep_duration=0)


def test_the_server_goes_away_and_comes_back(client: Any, k: Kubeflow, connect: Connect) -> None:
    pipeline, _ = uploaded(client)
    k.stop()
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        client.list_runs()
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        connect(k)
    with pytest.raises(httpx.ConnectError):
        httpx.get(k.url)
    url = k.url
    k.start()
    assert (k.url, client.get_pipeline_id("nlp-pipeline")) == (url, pipeline)


def test_a_request_is_kept_waiting(client: Any, k: Kubeflow) -> None:
    hold = k.faults.hold("POST .*/experiments$")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(client.create_experiment("reviews")))
    thread.start()
    assert hold.reached.wait(10)
    assert len(client.list_experiments().experiments) == 1
    assert not found
    hold.release()
    thread.join(10)
    assert found[0].display_name == "reviews"


def test_of_two_at_the_same_time_one_is_first(k: Kubeflow, connect: Connect) -> None:
    holds = [k.faults.hold("POST .*/experiments$") for _ in range(2)]
    found: list[Any] = []

    def create() -> None:
        client = connect(k)
        experiment = client.api_models.V2beta1Experiment(display_name="reviews")
        try:
            found.append(client._experiment_api.experiment_service_create_experiment(experiment).display_name)
        except Exception as error:  # noqa: BLE001  # the client's error type has no types
            found.append(getattr(error, "status", error))

    threads = [threading.Thread(target=create) for _ in holds]
    for thread in threads:
        thread.start()
    assert all(hold.reached.wait(10) for hold in holds)
    for hold in holds:
        hold.release()
    for thread in threads:
        thread.join(10)
    assert sorted(map(str, found)) == ["409", "reviews"]


def test_everything_ends_with_its_context() -> None:
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError), kubeflow() as k, httpx.Client() as kept:
        kept.get(f"{k.url}/apis/v2beta1/healthz")
        k.faults.hold()
        waiting = threading.Thread(target=lambda: httpx.get(f"{k.url}/apis/v2beta1/healthz"))
        waiting.start()
        k.faults._holds[0].reached.wait(10)
        raise ZeroDivisionError
    waiting.join(10)
    assert set(threading.enumerate()) == before
    with pytest.raises(httpx.ConnectError):
        httpx.get(k.url)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_certificates(ca: Authority, connect: Connect, tmp_path_factory: pytest.TempPathFactory) -> None:
    trusted = {"namespace": "team", "ssl_ca_cert": str(ca.path)}
    with kubeflow(tls=ca) as k:
        assert k.url.startswith("https://")
        assert connect(k, **trusted).list_experiments().total_size == 1
        assert httpx.get(f"{k.url}/apis/v2beta1/healthz", verify=ca.client_context()).status_code == 200
        other = Authority(tmp_path_factory.mktemp("other"))
        for unknown in ({"namespace": "team"}, {**trusted, "ssl_ca_cert": str(other.path)}):
            assert "certificate verify failed" in refused_tls(connect(k, **unknown))
        assert connect(k, namespace="team", verify_ssl=False).list_experiments().total_size == 1
    with kubeflow(tls=ca, hosts=("kubeflow.example.com",)) as k:
        assert "IP address mismatch" in refused_tls(connect(k, **trusted))
    with kubeflow(tls=ca, expired=True) as k:
        assert "certificate has expired" in refused_tls(connect(k, **trusted))


def refused_tls(client: Any) -> str:
    """Returns why the client doesn't trust a server; its error isn't the client's own `ApiException`."""
    with pytest.raises(urllib3.exceptions.MaxRetryError) as caught:
        client.list_experiments()
    return str(caught.value)
