"""Files that mean harm: whatever they say, they are loaded or refused with the reason, and nothing else happens."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

import conet_fx
from conet_fx import recipe
from conet_fx.errors import RecipeError
from conet_fx.recipe import files
from tests.hostile import Files, attempt, bad_files, nothing_else_happens, originals, sealed


@given(bad=bad_files())
@settings(
    max_examples=400,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    deadline=None,
    derandomize=True,
)
def test_whatever_the_files_say_they_are_loaded_or_refused(bad: Files, tmp_path: Path) -> None:
    attempt(bad, tmp_path)


def test_the_originals_load(tmp_path: Path) -> None:
    for original in originals():
        assert attempt(original, tmp_path) == ""
        document = json.loads(original.recipe)
        again = Files(json.dumps(sealed(document, original.weights)).encode(), original.weights)
        assert attempt(again, tmp_path) == ""


def test_the_watch_sees_what_happens_inside_and_nothing_else() -> None:
    with pytest.raises(AssertionError, match=r"socket\.__new__"), nothing_else_happens():
        socket.socket().close()
    with pytest.raises(AssertionError, match=r"subprocess\.Popen"), nothing_else_happens():
        subprocess.run([sys.executable, "--version"], check=True, capture_output=True)
    socket.socket().close()  # as a data loader of another test does
    with nothing_else_happens():
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert attempt(originals()[0], tmp_path) == ""
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any], text: Callable[[str], str] = str) -> None:
    """Change the document and write it with checksums that fit."""
    document = json.loads((folder / "recipe.json").read_text())
    change(document)
    document = sealed(document, (folder / "model.safetensors").read_bytes())
    (folder / "recipe.json").write_text(text(json.dumps(document)))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        recipe.load(folder)
    with pytest.raises(RecipeError, match=match):
        recipe.apply(nn.ReLU(), folder)


# --- the directory


@pytest.mark.parametrize("name", ["recipe.json", "model.safetensors"])
def test_links_out_of_the_directory(name: str, folder: Path) -> None:
    inside = folder / "run"
    inside.mkdir()
    for file in ("recipe.json", "model.safetensors"):
        (folder / file).rename(inside / file)
    (inside / name).rename(folder / name)
    (inside / name).symlink_to(Path("..", name))
    refused(inside, r"is a link out of its directory, to .*: put a copy in its place")
    (inside / name).unlink()
    (inside / name).symlink_to((folder / name).resolve())
    refused(inside, "is a link out of its directory")
    (inside / name).unlink()
    (inside / name).symlink_to(name)
    refused(inside, r"there is no file|cannot be read")
    (inside / name).unlink()
    (inside / name).mkdir()
    refused(inside, "there is no file")


def test_a_link_to_the_directory_itself_is_fine(folder: Path) -> None:
    (folder / "link").symlink_to(folder)
    recipe.load(folder / "link")
    recipe.load(folder / "link" / ".." / folder.name)
    refused(Path("a\0b"), "cannot be read|there is no file")


def test_pipes_and_devices_are_no_files(folder: Path) -> None:
    (folder / "recipe.json").unlink()
    os.mkfifo(folder / "recipe.json")
    refused(folder, "there is no file")


# --- sizes


def test_a_sparse_file_beyond_the_memory(folder: Path) -> None:
    """A file of holes costs its author nothing."""
    size = 2 * files.memory()
    header = json.dumps({"conv.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size // 4 * 4]}})
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        try:
            file.truncate(size)
        except OSError:
            pytest.skip("the file system has no such files")
    document = json.loads((folder / "recipe.json").read_text())
    document["weights"]["bytes"] = size
    document["sha256"] = files.digest({key: value for key, value in document.items() if key != "sha256"})
    (folder / "recipe.json").write_text(json.dumps(document))
    refused(folder, rf"wants {size} bytes of weights, more than the memory of this machine")


def test_sizes_are_held_against_the_header_before_the_data_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.WeightsFile, "read", lambda self: pytest.fail("read"))
    rewrite(folder, lambda document: document["modules"]["conv"]["arguments"].update(out_channels=2**40))
    refused(folder, r"'bias' of 'conv' is a parameter of \(4,\) in the files, but a parameter of \(1099511627776,\)")
    rewrite(folder, lambda document: document["modules"]["conv"]["arguments"].update(out_channels=4, kernel_size=2**20))
    refused(folder, r"'weight' of 'conv' is a parameter of \(4, 3, 3, 3\) in the files, .* \(4, 3, 1048576, 1048576\)")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}, "has 4 bytes for 'conv.bias' of shape"),
        ({"dtype": "F32", "shape": [2**40] * 60, "data_offsets": [0, 4]}, "has 4 bytes for 'conv.bias' of shape"),
        ({"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}, "which is no tensor"),
        ({"dtype": "F32", "shape": [1] * 1000, "data_offsets": [0, 4]}, "which is no tensor"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, "which is no tensor"),
        ({"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}, "which is no tensor"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}, "which is no tensor"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0, 2**50]}, "which is no tensor"),
        (7, "which is no tensor"),
    ],
)
def test_headers_that_lie(entry: Any, message: str, folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["conv.bias"] = entry
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    rewrite(folder, lambda document: None)
    refused(folder, message)


def test_entries_without_end(folder: Path) -> None:
    def repeated(document: dict[str, Any]) -> None:
        x = {"op": "placeholder", "target": "x"}
        document["nodes"] = [{**x, "name": f"x{number}", "args": []} for number in range(20_000)]

    rewrite(folder, repeated)
    refused(folder, "the recipe has 20000 nodes, more than 16384")
    rewrite(folder, lambda document: document["nodes"][-1].update(args=[[0] * (files.MAX_VALUES + 1)]))
    refused(folder, f"holds more than {files.MAX_VALUES} values")
    (folder / "recipe.json").write_text(" " * (files.MAX_BYTES + 1))
    refused(folder, rf"has {files.MAX_BYTES + 1} bytes, more than the {files.MAX_BYTES} that belong to it")


def test_choices_of_nests_do_not_grow_by_powers(folder: Path) -> None:
    """``x1 = by_mode(training, [x0, x0], x0)``, and so on: 2^60 entries if they were put in place of their names."""
    x0 = {"op": "placeholder", "name": "x0", "target": "x", "args": []}
    flag = {"op": "get_attr", "name": "training", "target": "training", "args": []}
    chain = [
        {
            **{"op": "call_function", "name": f"x{number}", "target": "conet_fx.passes.paths.by_mode"},
            "args": [{"node": "training"}, [{"node": f"x{number - 1}"}] * 2, {"node": f"x{number - 1}"}],
        }
        for number in range(1, 61)
    ]
    output = {"op": "output", "name": "output", "target": "output", "args": [{"node": "x60"}]}
    rewrite(folder, lambda document: document.update(nodes=[x0, flag, *chain, output]))
    refused(folder, r"node 'x2' .* uses what the network returns in each mode")
    uses = {"op": "call_function", "name": "y", "target": "torch.cat", "args": [[{"node": "x1"}] * 2]}
    rewrite(folder, lambda document: document.update(nodes=[x0, flag, chain[0], uses, output]))
    refused(folder, "node 'y' .* uses what the network returns in each mode")


def test_no_network_is_saved_that_could_not_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = conet_fx.analyze(nn.Sequential(nn.Conv2d(1, 2, 1)), torch.zeros(1, 1, 2, 2))
    build = sys.modules["conet_fx.recipe.build"]
    for module, limit, message in (
        (files, "MAX_BYTES", "more than the 2 that belong to it"),
        (files, "MAX_VALUES", "holds more than 2 values"),
        (build, "MAX_ENTRIES", r"the recipe has \d nodes"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, 2)
            with pytest.raises(RecipeError, match=message):
                conet_fx.save(plan.resize({}), plan, tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_numbers_as_keys_that_collide(folder: Path) -> None:
    pairs = [[number * (2**61 - 1) % 2**63, 0] for number in range(50_000)]
    rewrite(folder, lambda document: document["nodes"][-1].update(args=[{"dict": pairs}]))
    refused(folder, "is no value that a recipe may hold")


# --- text


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("1" * 10**6, "is larger than any number that torch takes"),
        ("1e999", "is larger than any number that torch takes"),
        ("NaN", "NaN is no number"),
        ("[" * 10**6, "is nested too deep"),
        ("[" * 300 + "]" * 300, "is nested too deep"),
        ('{"training": true, "training": true}', "the key 'training' stands there twice"),
    ],
)
def test_json_that_nobody_writes(raw: str, message: str, folder: Path) -> None:
    rewrite(
        folder,
        lambda document: document["modules"].update(conv="here"),
        lambda text: text.replace('"here"', raw),
    )
    refused(folder, message)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-be", "utf-8-sig"])
def test_a_recipe_is_utf_8_and_nothing_else(encoding: str, folder: Path) -> None:
    text = (folder / "recipe.json").read_text()
    (folder / "recipe.json").write_bytes(text.encode(encoding))
    refused(folder, "is not JSON")


def test_long_texts_are_not_repeated_in_messages(folder: Path) -> None:
    for change in (
        lambda document: document["nodes"][1].update(name="a" * 10**6),
        lambda document: document["nodes"][1].update(args=[{"a" * 10**6: 1}]),
        lambda document: document["modules"].update({"a" * 10**6: {"training": True}}),
        lambda document: document["modules"]["conv"]["arguments"].update(padding_mode="a" * 10**6),
        lambda document: document.update(version="a" * 10**6),
    ):
        original = (folder / "recipe.json").read_text()
        rewrite(folder, change)
        with pytest.raises(RecipeError) as caught:
            recipe.load(folder)
        assert len(str(caught.value)) < 3000
        (folder / "recipe.json").write_text(original)


@pytest.mark.parametrize("annotation", ["__import__('os').system('x')", "(lambda: 0)()", "x if y else z()", "a\nb"])
def test_annotations_are_names_only(annotation: str, folder: Path) -> None:
    """``typing.get_type_hints`` evaluates them."""
    rewrite(folder, lambda document: document["nodes"][0].update(annotation={"text": annotation}))
    refused(folder, "is no annotation that a recipe may hold")


@pytest.mark.parametrize("name", ["__deepcopy__", "__class__", "__dict__", "__torch_function__"])
def test_names_that_python_looks_for(name: str, folder: Path) -> None:
    rewrite(folder, lambda document: document["modules"].update({f"inner.{name}": {"training": True}}))
    refused(folder, "is no path of a module or tensor")


# --- whose it is


class Other(nn.Module):
    """The layers of another class, put together in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


class Swapped(Other):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(self.b(x))


def test_a_class_of_another_name_is_another_model(tmp_path: Path) -> None:
    plan = conet_fx.analyze(Other(), torch.zeros(1, 3, 2, 2))
    conet_fx.save(plan.resize({"a": 2}), plan, tmp_path)
    assert type(conet_fx.apply(Other(), tmp_path)) is Other
    with pytest.raises(RecipeError, match=r"its class is tests\.\S+\.Swapped, not tests\.\S+\.Other"):
        conet_fx.apply(Swapped(), tmp_path)
    moved = type("Other", (Other,), {"__module__": "__main__"})
    assert type(conet_fx.apply(moved(), tmp_path)) is moved


def test_a_recipe_tells_its_groups_and_whose_it_is(tmp_path: Path) -> None:
    plan = conet_fx.analyze(Other(), torch.zeros(1, 3, 2, 2))
    conet_fx.save(plan.resize({"a": 2}), plan, tmp_path)
    found = recipe.read(tmp_path)
    assert found.sizes == {"a": 2, "b": 3}
    assert found.groups["a"] == recipe.GroupSpec(2, 1)
    assert found.model["class"] == f"{__name__}.Other"
    assert found.model.keys() == {"class", "keys", "graph"}
    assert plan.resize(found.sizes).get_submodule("a").out_channels == 2
    conet_fx.save(plan.trace.graph_module, plan, tmp_path)
    assert recipe.read(tmp_path).sizes == plan.sizes
    other = conet_fx.analyze(nn.Sequential(nn.Conv2d(3, 3, 1)), torch.zeros(1, 3, 2, 2))
    for module in (other.resize({}), torch.fx.symbolic_trace(Other())):
        with pytest.raises(RecipeError, match=r"is not what plan.resize of this plan gave"):
            conet_fx.save(module, plan, tmp_path)
