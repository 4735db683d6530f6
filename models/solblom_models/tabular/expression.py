"""From a sample's genes to features: transform, public constants, gene sets. Each sample by itself."""

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.tabular.table_file import GeneValues
from solblom_protocol.contracts.expression import Expression
from solblom_protocol.errors import DataError
from solblom_verify.wording import counted

Floats = NDArray[np.float64]
ROWS_AT_ONCE = 64  # bounds the memory of float64 copies


def encode_genes(
    found: GeneValues | None, expression: Expression, *, limit: float
) -> NDArray[np.float32]:
    """Return genes and gene sets as features, shape (N, F), in the order of `feature_names`.

    Args:
        found: the table's genes; None where the table was read without its contract.
        expression: the contract's.
        limit: features lie within ± limit.

    Raises:
        DataError: SB-301 or SB-312 too much is missing, SB-303 out of range.
    """
    if found is None:
        raise DataError("SB-301", "The table was read without the contract's expression")
    check_missing(found, expression)
    _check_range(found.values, expression)
    place = {gene: index for index, gene in enumerate(expression.columns)}
    single = np.array([place[gene] for gene in expression.genes], dtype=np.int64)
    sets = [[place[gene] for gene in expression.gene_sets[name]] for name in expression.sets]
    features = np.empty((len(found.values), len(single) + len(sets)), dtype=np.float32)
    for start in range(0, len(features), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        standard = _standardised(found.values[rows].astype(np.float64), expression, limit)
        features[rows, : len(single)] = standard[:, single]
        for column, genes in enumerate(sets, start=len(single)):
            mean = standard[:, genes].mean(axis=1) / expression.set_scale
            features[rows, column] = np.clip(mean, -limit, limit)
    return features


def check_missing(found: GeneValues, expression: Expression) -> None:
    """Refuse a table, or samples, that lack more of the contract's genes than it allows.

    Raises:
        DataError: SB-301 columns, SB-312 values of a sample.
    """
    genes, allowed = len(expression.columns), expression.max_missing
    absent = found.absent
    if len(absent) > allowed * genes:
        shown = ", ".join(absent[:5]) + (" …" if len(absent) > 5 else "")
        raise DataError(
            "SB-301",
            f"The table lacks {len(absent)} of {genes} genes, and the contract allows {allowed:.1%}: {shown}",
        )
    lacking = np.isnan(found.values).sum(axis=1)
    rows = np.nonzero(lacking > allowed * genes)[0]
    if len(rows):
        raise DataError(
            "SB-312",
            f"{counted(len(rows), 'sample lacks', 'samples lack')} more than {allowed:.1%} of {genes} genes, "
            f"first in line {rows[0] + 2}",
        )


def normal_scores(values: Floats) -> Floats:
    """Return the rank of each of n values as a normal score; equal values share their mean rank.

    The score of rank r is the standard normal quantile of (r - 1/2) / n (Hazen's plotting position).
    """
    count = len(values)
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(starts, append=count)
    # Ranks start + 1 to start + size have the mean start + (size + 1) / 2.
    quantiles = torch.from_numpy((2.0 * starts + sizes) / (2.0 * count))
    scores = np.empty(count)
    scores[order] = np.repeat(torch.special.ndtri(quantiles).numpy(), sizes)
    return scores


def _standardised(values: Floats, expression: Expression, limit: float) -> Floats:
    """Return (transformed - center) / scale, limited, 0 where missing; shape (N, G)."""
    if expression.transform == "log2":
        values = np.log2(values + 1.0)
    elif expression.transform == "rank":
        for row in values:
            present = ~np.isnan(row)
            if present.any():
                row[present] = normal_scores(row[present])
    standard = (values - np.asarray(expression.center)) / np.asarray(expression.scale)
    limited: Floats = np.clip(standard, -limit, limit)
    limited[np.isnan(limited)] = 0.0
    return limited


def _check_range(values: NDArray[np.float32], expression: Expression) -> None:
    """Refuse values outside the contract's range; where it begins at 0, negative ones are named.

    Raises:
        DataError: SB-303.
    """
    with np.errstate(over="ignore"):
        low, high = np.float32(expression.minimum), np.float32(expression.maximum)
    checks = [
        (
            (values < low) | (values > high),
            f"outside {expression.minimum:g} to {expression.maximum:g}",
        )
    ]
    if expression.transform == "log2":
        checks.insert(0, (values < 0, "below 0, of which log2(value + 1) is of no use"))
    for wrong, what in checks:
        rows = np.nonzero(wrong.any(axis=1))[0]
        if len(rows):
            raise DataError(
                "SB-303",
                f"The expression has {counted(int(wrong.sum()), 'value')} {what} {expression.unit}, "
                f"in {counted(len(rows), 'row')}, first in line {rows[0] + 2}",
            )
