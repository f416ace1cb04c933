"""The grid as a matrix: `size` x `variant`. One place makes and parses the keys of its cells."""

from dataclasses import dataclass
from functools import cached_property

import dagster as dg

from flywheel.models.catalogue import Variant
from flywheel.training.job import Cell
from flywheel.training.options import GridOptions


@dataclass(frozen=True)
class Grid:
    """The cells that Dagster has partitions for, from the settings `grid.variants` and `grid.sizes`."""

    variants: tuple[str, ...]
    sizes: tuple[str, ...]

    @classmethod
    def of(cls, options: GridOptions) -> "Grid":
        """The grid of these settings."""
        return cls(tuple(dict.fromkeys(str(cell.variant) for cell in options.cells)), options.sizes)

    @cached_property
    def partitions(self) -> dg.MultiPartitionsDefinition:
        """Every cell."""
        sizes, variants = (dg.StaticPartitionsDefinition(list(keys)) for keys in (self.sizes, self.variants))
        return dg.MultiPartitionsDefinition({"size": sizes, "variant": variants})

    def __contains__(self, cell: Cell) -> bool:
        return str(cell.variant) in self.variants and cell.size in self.sizes

    def key(self, cell: Cell) -> dg.MultiPartitionKey:
        """The partition key of one of its cells, `100|all-MiniLM-L6-v2@256`."""
        return dg.MultiPartitionKey({"size": cell.size, "variant": str(cell.variant)})


def parse_cell(partition_key: str) -> Cell:
    """The cell of a partition, which a run launched through the API may name by the joint key alone."""
    size, _, variant = partition_key.partition("|")
    return Cell(Variant.parse(variant), size)
