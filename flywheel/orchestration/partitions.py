"""The experiment as a matrix: `size` x `variant`. One place makes and parses the keys of its cells."""

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.training.job import GRID_DIMENSIONS, SIZES, Cell

GRID_VARIANTS = tuple(str(Variant(base, dim)) for base, dims in GRID_DIMENSIONS.items() for dim in dims)

CELLS = dg.MultiPartitionsDefinition(
    {"size": dg.StaticPartitionsDefinition(list(SIZES)), "variant": dg.StaticPartitionsDefinition(list(GRID_VARIANTS))}
)


def cell_key(cell: Cell) -> dg.MultiPartitionKey:
    """The partition key of a cell, `100|all-MiniLM-L6-v2@256`. Raises FlywheelError for a cell outside the grid."""
    if not in_grid(cell):
        raise FlywheelError(
            f"{cell.variant} at size {cell.size} is not in the grid. Choose a variant of {', '.join(GRID_VARIANTS)} and a size "
            f"of {', '.join(SIZES)}."
        )
    return dg.MultiPartitionKey({"size": cell.size, "variant": str(cell.variant)})


def in_grid(cell: Cell) -> bool:
    """Whether the UI's matrix has this cell."""
    return str(cell.variant) in GRID_VARIANTS and cell.size in SIZES


def parse_cell(context: dg.AssetExecutionContext) -> Cell:
    """The cell of a run's partition, which a run launched through the API may name by the joint key alone."""
    key = CELLS.get_partition_key_from_str(context.partition_key)
    return Cell(Variant.parse(key.keys_by_dimension["variant"]), key.keys_by_dimension["size"])
