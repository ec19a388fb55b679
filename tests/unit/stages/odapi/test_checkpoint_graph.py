"""Where a checkpoint's model is, and its averages, by the graph of what was saved."""

from __future__ import annotations

import pytest
from checkpoint_graphs import Graph

from stages.odapi import checkpoint_graph

SSD = {"_feature_extractor": 8, "_box_predictor": 9}
CENTERNET = {"_feature_extractor": 8, "_prediction_head_dict": 9}
NOTHING: dict[str, int] = {}


def of(root: dict[str, int], *nodes: dict[str, int]) -> Graph:
    """A graph of ten nodes: the root, those given, and empty ones."""
    return Graph([root, *nodes, *[NOTHING] * (9 - len(nodes))])


@pytest.mark.parametrize("model", [SSD, CENTERNET])
@pytest.mark.parametrize(
    ("root", "above", "place"),
    [
        ({"model": 1}, NOTHING, ("model",)),
        ({"detection_model": 1, "step": 3}, NOTHING, ("detection_model",)),
        ({"trainer": 2}, {"net": 1}, ("trainer", "net")),
        # The same object under two names: the nearer one counts.
        ({"trainer": 2, "student": 1}, {"net": 1}, ("student",)),
    ],
)
def test_under_any_name(
    model: dict[str, int], root: dict[str, int], above: dict[str, int], place: tuple[str, ...]
) -> None:
    graph = of(root, model, above)
    assert checkpoint_graph.models(graph) == {place: 1}
    assert checkpoint_graph.node_at(graph, place) == 1


def test_as_the_root() -> None:
    assert checkpoint_graph.models(of({**SSD, "save_counter": 3})) == {(): 0}
    assert checkpoint_graph.node_at(of(SSD), ()) == 0


def test_several() -> None:
    graph = of({"student": 1, "teacher": 2}, SSD, CENTERNET)
    assert set(checkpoint_graph.models(graph)) == {("student",), ("teacher",)}


def test_a_part_is_no_model() -> None:
    for part in ({"_feature_extractor": 8}, {"_box_predictor": 9}, NOTHING):
        assert checkpoint_graph.models(of({"model": 1}, part)) == {}


def test_a_circle_ends() -> None:
    graph = of({"model": 1}, {**SSD, "owner": 2}, {"model": 1, "root": 0})
    assert checkpoint_graph.models(graph) == {("model",): 1}


def test_averages_are_told_from_other_slots() -> None:
    graph = Graph(
        [{"model": 1, "optimizer": 2}, {"kernel": 3, "mean": 4}, NOTHING, *[NOTHING] * 4],
        values={3: "kernel", 4: "mean", 5: "kernel/momentum", 6: "kernel/average"},
        slots={2: [(3, "momentum", 5), (3, "average", 6)]},
    )
    assert checkpoint_graph.averages(graph) == ({"kernel": "kernel/average"}, ("optimizer",))


def test_no_averages() -> None:
    graph = Graph(
        [{"model": 1, "optimizer": 2}, {"kernel": 3}, NOTHING, NOTHING, NOTHING],
        values={3: "kernel", 4: "kernel/momentum"},
        slots={2: [(3, "momentum", 4)]},
    )
    assert checkpoint_graph.averages(graph) == ({}, ())


def test_names_of_numbered_keys() -> None:
    """The name where it is known and nobody else's."""
    graph = Graph(
        [{"captured": 1}, {"0": 2, "1": 3, "2": 4}, NOTHING, NOTHING, NOTHING],
        values={2: "captured/0", 3: "captured/1", 4: "captured/2"},
        full_names={2: "conv/kernel", 3: "conv/kernel"},
    )
    assert checkpoint_graph.names(graph) == {"captured/0": "conv/kernel"}


def test_whether_the_exporters_counter_is_there() -> None:
    assert checkpoint_graph.has_counter(of({"model": 1, "save_counter": 3}))
    assert not checkpoint_graph.has_counter(of({"model": 1}, {"save_counter": 3}))
