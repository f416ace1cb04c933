"""Which split each pair belongs to: a pure function of the pairs and of what earlier draws have fixed.

Questions are nodes, pairs are edges. What a snapshot has put into `train`, `calibration` or `test` stays there. A group of
new questions goes where its edges lead: hanging on a frozen question it is embargoed, hanging on a trained one it trains,
hanging on neither it may be drawn. A kind of pairs (seed, interaction) is drawn once, when its components suffice.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from flywheel.pairs.text import digest

FROZEN = ("calibration", "test")
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
ObjectArray = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Shares:
    """What one source's pairs should give to `test` and `calibration`, as shares of its pairs."""

    test: float
    calibration: float


@dataclass(frozen=True)
class SplitRules:
    """The settings a draw obeys (see `Settings` for their meaning)."""

    seed: Shares
    interaction: Shares
    max_split_pairs: int
    max_component_pairs: int
    min_components: int


@dataclass(frozen=True, eq=False)
class _Graph:
    """Pairs as edges `a`, `b` between question numbers, which of them are explicit, and the `group` each belongs to.

    `group` is the number of the component's first question, -1 for none; cutting a component changes it in place.
    """

    a: IntArray
    b: IntArray
    explicit: BoolArray
    group: IntArray
    questions: ObjectArray


def assign_splits(pairs: pd.DataFrame, assigned: dict[str, str], drawn: frozenset[str], rules: SplitRules) -> pd.DataFrame:
    """Columns `split` and `component` for `pairs` (index kept).

    `pairs` has `question_a, question_b, source, kind`; `assigned` maps a question to the split an earlier snapshot fixed for
    it; `drawn` names the sources whose draw has happened. `split` is train, calibration, test,
    embargoed (linked to a frozen question, or cut from one) or waiting (set aside for a draw that has too few components
    yet). Pairs between frozen questions come back embargoed unless this very call
    draws them: what was drawn before is kept as it was drawn, elsewhere.
    """
    codes, found = pd.factorize(pd.concat([pairs["question_a"], pairs["question_b"]], ignore_index=True), sort=True)
    questions = np.asarray(found, dtype=object)
    a, b = codes[: len(pairs)].astype(np.int64), codes[len(pairs) :].astype(np.int64)
    fixed = np.array([assigned.get(q, "") for q in questions], dtype=object)
    frozen, trained = np.isin(fixed, FROZEN), fixed == "train"
    new = ~(frozen | trained)

    component = _components(len(questions), a, b, new)
    touches_frozen, touches_trained = (_touched(component, a, b, nodes & ~new) for nodes in (frozen, trained))
    split = np.full(len(pairs), "train", dtype=object)
    pair_component = np.where(new[a], component[a], np.where(new[b], component[b], -1))
    split[frozen[a] | frozen[b]] = "embargoed"
    split[(pair_component >= 0) & touches_frozen[pair_component]] = "embargoed"

    free = new[a] & new[b] & ~touches_frozen[pair_component] & ~touches_trained[pair_component]
    explicit = (pairs["kind"] == "explicit").to_numpy()
    graph = _Graph(a, b, explicit, pair_component, questions)
    for source, shares in (("seed", rules.seed), ("interaction", rules.interaction)):
        is_source = (pairs["source"] == source).to_numpy()
        member = _components_of_source(pair_component, free, pairs["source"].to_numpy(), source)
        if source not in drawn and (member & explicit).any():
            _draw(split, graph, member, int((is_source & explicit).sum()), shares, rules)
    split[np.isin(split, FROZEN) & ~explicit] = "embargoed"
    label = np.array([questions[c] if c >= 0 else "" for c in pair_component], dtype=object)
    return pd.DataFrame({"split": split, "component": label}, index=pairs.index)


def _components(n: int, a: IntArray, b: IntArray, new: BoolArray) -> IntArray:
    """Connected components over edges between new questions; each is named by its first question's number."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edge = new[a] & new[b]
    graph = coo_array((np.ones(edge.sum(), np.int8), (a[edge], b[edge])), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    first = np.full(labels.max(initial=-1) + 1, n, np.int64)
    np.minimum.at(first, labels, np.arange(n))
    return first[labels]


def _touched(component: IntArray, a: IntArray, b: IntArray, fixed: BoolArray) -> BoolArray:
    """Per component name: does an edge lead from it to a question of `fixed`?"""
    touched = np.zeros(len(component), bool)
    touched[component[a[fixed[b]]]] = True
    touched[component[b[fixed[a]]]] = True
    return touched


def _components_of_source(pair_component: IntArray, free: BoolArray, source: ObjectArray, wanted: str) -> BoolArray:
    """The free pairs whose component counts as `wanted`: seed as soon as one of its pairs is, else interaction."""
    has_seed = np.isin(pair_component, np.unique(pair_component[free & (source == "seed")]))
    return free & (has_seed if wanted == "seed" else ~has_seed)


def _draw(split: ObjectArray, graph: _Graph, member: BoolArray, source_pairs: int, shares: Shares, rules: SplitRules) -> None:
    """Fill `test`, then `calibration`, with whole small components of `member` pairs in hash order; changes `split`.

    Only explicit labels judge, so shares and components count explicit pairs.
    """
    targets = {
        name: min(int(share * source_pairs), rules.max_split_pairs)
        for name, share in (("test", shares.test), ("calibration", shares.calibration))
    }
    small = _small(graph, member, rules)
    if small.sum() < sum(targets.values()):
        sizes = pd.Series(graph.group[member]).value_counts()
        _cut(graph, member & np.isin(graph.group, sizes.index[sizes > rules.max_component_pairs]))
        small = _small(graph, member, rules)
    order = np.array(sorted(small.index, key=lambda c: digest(f"draw|{graph.questions[c]}")), dtype=np.int64)
    held = small.reindex(order).to_numpy(np.int64)
    held_before = held.cumsum() - held
    tested = int(np.searchsorted(held_before, targets["test"]))
    calibrated = int(np.searchsorted(held_before - held_before[tested : tested + 1].sum(), targets["calibration"]))
    chosen = {"test": order[:tested], "calibration": order[tested:calibrated]}
    enough = min(map(len, chosen.values())) >= rules.min_components
    for name, groups in chosen.items():
        taken = member & np.isin(graph.group, groups)
        nodes = np.union1d(graph.a[taken], graph.b[taken])
        touching = np.isin(graph.a, nodes) | np.isin(graph.b, nodes)
        split[touching] = "embargoed" if enough else "waiting"  # the pairs across a cut
        split[taken] = name if enough else "waiting"


def _small(graph: _Graph, member: BoolArray, rules: SplitRules) -> "pd.Series[int]":
    """Explicit pairs per component that is small enough to be drawn and has any."""
    sizes = pd.Series(graph.group[member & (graph.group >= 0)]).value_counts()
    explicit = pd.Series(graph.group[member & graph.explicit & (graph.group >= 0)]).value_counts()
    return explicit[explicit.index.isin(sizes.index[sizes <= rules.max_component_pairs])]


def _cut(graph: _Graph, large: BoolArray) -> None:
    """Split large components into communities (Louvain, networkx): `group` becomes the community inside, -1 across."""
    import networkx as nx

    a, b = graph.a[large], graph.b[large]
    network = nx.Graph()
    network.add_nodes_from(sorted(set(a) | set(b)))
    network.add_edges_from(sorted(zip(a.tolist(), b.tolist(), strict=True)))
    community = np.full(len(graph.questions), -1, np.int64)
    # A resolution well above 1 gives communities small enough to be drawn.
    for nodes in nx.community.louvain_communities(network, resolution=4.0, seed=0):
        community[list(nodes)] = min(nodes)
    graph.group[large] = np.where(community[a] == community[b], community[a], -1)
