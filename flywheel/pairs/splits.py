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
    inside = new[a] & new[b]
    split[frozen[a] | frozen[b]] = "embargoed"
    split[(pair_component >= 0) & touches_frozen[pair_component]] = "embargoed"

    free = inside & ~touches_frozen[pair_component] & ~touches_trained[pair_component]
    for source, shares in (("seed", rules.seed), ("interaction", rules.interaction)):
        is_source = (pairs["source"] == source).to_numpy()
        of_source = _components_of_source(pair_component, free, pairs["source"].to_numpy(), source)
        if source not in drawn and of_source.any():
            _draw(split, pair_component, a, b, of_source, int(is_source.sum()), shares, rules, questions)
    split[np.isin(split, FROZEN) & (pairs["kind"] == "implied").to_numpy()] = "embargoed"
    label = np.array([questions[c] if c >= 0 else "" for c in pair_component], dtype=object)
    return pd.DataFrame({"split": split, "component": label}, index=pairs.index)


def _components(n: int, a: IntArray, b: IntArray, new: npt.NDArray[np.bool_]) -> IntArray:
    """Connected components over edges between new questions; each is named by its first question's number."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edge = new[a] & new[b]
    graph = coo_array((np.ones(edge.sum(), np.int8), (a[edge], b[edge])), shape=(n, n))
    _, labels = connected_components(graph, directed=False)
    first = np.full(labels.max(initial=-1) + 1, n, np.int64)
    np.minimum.at(first, labels, np.arange(n))
    return first[labels]


def _touched(component: IntArray, a: IntArray, b: IntArray, fixed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Per component name: does an edge lead from it to a question of `fixed`?"""
    touched = np.zeros(len(component), bool)
    touched[component[a[fixed[b]]]] = True
    touched[component[b[fixed[a]]]] = True
    return touched


def _components_of_source(
    pair_component: IntArray, free: npt.NDArray[np.bool_], source: npt.NDArray[np.object_], wanted: str
) -> npt.NDArray[np.bool_]:
    """The free pairs whose component counts as `wanted`: seed as soon as one of its pairs is, else interaction."""
    has_seed = np.isin(pair_component, np.unique(pair_component[free & (source == "seed")]))
    return free & (has_seed if wanted == "seed" else ~has_seed)


def _draw(
    split: npt.NDArray[np.object_], group: IntArray, a: IntArray, b: IntArray, member: npt.NDArray[np.bool_],
    source_pairs: int, shares: Shares, rules: SplitRules, questions: npt.NDArray[np.object_],
) -> None:  # fmt: skip
    """Fill `test`, then `calibration`, with whole small components in hash order; changes `split` and `group`."""
    targets = {
        name: min(int(share * source_pairs), rules.max_split_pairs)
        for name, share in (("test", shares.test), ("calibration", shares.calibration))
    }
    sizes = pd.Series(group[member]).value_counts()
    small = sizes[sizes <= rules.max_component_pairs]
    if small.sum() < sum(targets.values()):
        _cut(group, a, b, member & np.isin(group, sizes.index[sizes > rules.max_component_pairs]), rules, questions)
        sizes = pd.Series(group[member & (group >= 0)]).value_counts()
        small = sizes[sizes <= rules.max_component_pairs]
    order = np.array(sorted(small.index, key=lambda c: digest(f"draw|{questions[c]}")), dtype=np.int64)
    held = small.reindex(order).to_numpy(np.int64)
    held_before = held.cumsum() - held
    tested = int(np.searchsorted(held_before, targets["test"]))
    calibrated = int(np.searchsorted(held_before - held_before[tested : tested + 1].sum(), targets["calibration"]))
    chosen = {"test": order[:tested], "calibration": order[tested:calibrated]}
    enough = min(map(len, chosen.values())) >= rules.min_components
    for name, groups in chosen.items():
        taken = np.isin(group, groups)
        nodes = np.union1d(a[member & taken], b[member & taken])
        split[np.isin(a, nodes) | np.isin(b, nodes)] = "embargoed" if enough else "waiting"  # the pairs across a cut
        split[member & taken] = name if enough else "waiting"


def _cut(
    group: IntArray, a: IntArray, b: IntArray, large: npt.NDArray[np.bool_], rules: SplitRules,
    questions: npt.NDArray[np.object_],
) -> None:  # fmt: skip
    """Split large components into communities (Louvain, networkx): `group` becomes the community inside, -1 across."""
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(sorted(set(a[large]) | set(b[large])))
    graph.add_edges_from(sorted(zip(a[large].tolist(), b[large].tolist(), strict=True)))
    community = np.full(len(questions), -1, np.int64)
    for nodes in nx.community.louvain_communities(graph, resolution=4.0, seed=0):
        community[list(nodes)] = min(nodes)
    same = community[a[large]] == community[b[large]]
    group[large] = np.where(same, community[a[large]], -1)
