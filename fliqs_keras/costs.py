"""What an assignment costs: a sum of terms over decisions."""

import abc
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import keras
import numpy as np

from fliqs_keras.assignments import FormatAssignment, choices_in, decisions
from fliqs_keras.formats import Format, parse_format
from fliqs_keras.macs import macs_by_layer
from fliqs_keras.quantized_layers import QuantizedLayer, quantized_layers
from fliqs_keras.size_masks import alive_share

__all__ = ["BitOps", "Cost", "CostTerm", "weighted"]


class CostTerm(NamedTuple):
    """A part of a cost, and the decisions that it depends on, if any.

    Attributes:
        decisions: The names of the decisions.
        values: What the part costs: a float64 array with an axis for each
            decision, and along it an entry for each of its options.
    """

    decisions: tuple[str, ...]
    values: np.ndarray


class Cost(abc.ABC):
    """What an assignment costs: a sum of terms over the decisions of a model.

    Derived classes say the terms, and so can be budgets of a search.

    Attributes:
        unit: Name of the unit.

    Example:

    >>> class Bits(fliqs_keras.Cost):
    ...     unit = "bits"
    ...
    ...     def terms(self, model):
    ...         bits = np.array([4.0, 8.0])
    ...         return [fliqs_keras.CostTerm(("head",), bits)]
    """

    unit: str

    @abc.abstractmethod
    def terms(self, model: keras.Model) -> list[CostTerm]:
        """Returns the parts that the cost of an assignment is the sum of.

        Several may depend on the same decisions.

        Args:
            model: A model from `fliqs_keras.apply`.
        """

    def __call__(
        self,
        model: keras.Model,
        assignment: Mapping[str, str | Format] | None = None,
    ) -> float:
        """Returns the cost of a model.

        Args:
            model: A model from `fliqs_keras.apply`.
            assignment: Formats of its decisions. Defaults to the formats
                that the model stands on.

        Returns:
            The cost in `unit`.

        Raises:
            ValueError: If the model is not quantized, or if the assignment
                does not fit it.
        """
        if assignment is None:
            assignment = FormatAssignment.from_model(model)
        choice = choices_in(assignment, decisions(model))
        return sum(
            float(term.values[tuple(choice[name] for name in term.decisions)])
            for term in self._terms_on(model, choice)
        )

    def table(self, model: keras.Model) -> list[np.ndarray]:
        """Returns the cost of each option of each decision.

        The cost of an assignment is the sum of one entry of each row. What
        depends on no decision is in the first row.

        Args:
            model: A model from `fliqs_keras.apply`.

        Returns:
            A float64 array for each decision, one entry an option.

        Raises:
            ValueError: If a term depends on several decisions that have a
                choice, or on one that the model has not.
        """
        rows = {d.name: np.zeros(len(d.options)) for d in decisions(model)}
        for term in self._terms_on(model, rows):
            names = term.decisions
            open_names = [n for n in names if rows[n].size > 1]
            if len(open_names) > 1:
                raise ValueError(
                    "Expected a cost that adds up over single decisions. "
                    f"Received: a {type(self).__name__} with a term that "
                    f"depends on all of {open_names}. Use `terms`"
                )
            name = next(iter([*open_names, *names, *rows]))
            rows[name] += term.values.reshape(-1)
        return list(rows.values())

    def _terms_on(
        self, model: keras.Model, names: Iterable[str]
    ) -> list[CostTerm]:
        """Returns the terms, which must be of decisions of the model."""
        terms = self.terms(model)
        if unknown := {n for t in terms for n in t.decisions} - set(names):
            raise ValueError(
                f"Expected cost terms on decisions of the model: {[*names]}. "
                f"Received: a {type(self).__name__} with terms on "
                f"{sorted(unknown)}"
            )
        return terms


class BitOps(Cost):
    """Bit operations of one example, in units of 1e9 (GBOPs), as FLIQS counts.

    The sum over quantized layers of

        multiply-accumulates * bits of the weight * bits of the input / 1e9

    where a float of N bits counts as an integer of N bits, and an input that
    is not quantized has 32. Biases, batch normalization and everything else
    that is not quantized do not count; a layer that is called several times
    counts each time.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> BitOps()(fliqs_keras.apply(model, "INT8")) * 1e9
    512.0
    """

    unit = "GBOPs"

    def terms(self, model: keras.Model) -> list[CostTerm]:
        return mac_terms(model, lambda w, a: w.bits * a.bits / 1e9)


class _Weighted(Cost):
    def __init__(self, weights: Mapping[Cost, float]):
        self.weights = dict(weights)
        self.unit = " + ".join(f"{w:g} {c.unit}" for c, w in weights.items())

    def terms(self, model: keras.Model) -> list[CostTerm]:
        return [
            CostTerm(term.decisions, weight * term.values)
            for cost, weight in self.weights.items()
            for term in cost.terms(model)
        ]


def check_cost(cost: Cost) -> None:
    """Checks that something is a cost.

    Raises:
        ValueError: If it is not, but a class or a name.
    """
    if not isinstance(cost, Cost):
        raise ValueError(
            "Expected a cost, an object such as `fliqs_keras.BitOps()`. "
            f"Received: {cost!r}"
        )


def weighted(weights: Mapping[Cost, float]) -> Cost:
    """Returns a weighted sum of costs, which is a cost.

    Args:
        weights: What each cost is multiplied with: for costs of different
            units, what one unit is worth.

    Raises:
        ValueError: If there is no cost, or something that is none.

    Example:

    >>> cost = fliqs_keras.weighted(
    ...     {fliqs_keras.BitOps(): 1.0, fliqs_keras.WeightBytes(): 1e-6}
    ... )
    >>> cost.unit
    '1 GBOPs + 1e-06 bytes'
    """
    if not weights:
        raise ValueError(
            "Expected a weight for at least one cost. Received: {}"
        )
    for cost in weights:
        check_cost(cost)
    return _Weighted(weights)


def mac_terms(
    model: keras.Model, price: Callable[[Format, Format], float]
) -> list[CostTerm]:
    """Returns a term for each layer that multiplies with quantized weights.

    Args:
        model: A model from `fliqs_keras.apply`.
        price: What one multiply-accumulate costs, by the format of the weight
            and that of the input, which is FP32 where it is not quantized.

    Raises:
        ValueError: If the weights of a layer belong to several decisions.
    """
    macs = macs_by_layer(model)
    return layer_terms(
        model, lambda layer, w, a: macs.get(id(layer), 0) * price(w, a)
    )


def layer_terms(
    model: keras.Model,
    price: Callable[[QuantizedLayer, Format, Format], float],
) -> list[CostTerm]:
    """Returns a term for each layer that multiplies with quantized weights.

    Where the size of a layer is decided, too, it costs what is alive of it.

    Args:
        model: A model from `fliqs_keras.apply`.
        price: What a whole layer costs, by the format of its weights and
            that of its input, which is FP32 where it is not quantized.

    Raises:
        ValueError: If the weights of a layer belong to several decisions.
    """
    return [
        share_of(_layer_term(layer, functools.partial(price, layer)), layer)
        for layer in quantized_layers(model)
        # One that only quantizes activations multiplies nothing.
        if layer.weight_quantizers
    ]


def share_of(term: CostTerm, layer: QuantizedLayer) -> CostTerm:
    """Returns what of the cost of a whole layer its sizes leave."""
    share = alive_share(layer.size_masks())
    return CostTerm(
        (*term.decisions, *share.decisions),
        np.multiply.outer(term.values, share.values),
    )


def _layer_term(
    layer: QuantizedLayer, price: Callable[[Format, Format], float]
) -> CostTerm:
    names = {quantizer.decision for quantizer in layer.weight_quantizers}
    if len(names) > 1:
        raise ValueError(
            "Expected one decision for all weights of a layer, whose "
            f"multiplications are counted together. Received: {sorted(names)} "
            f"for layer {layer.path!r}"
        )
    (weight,) = names
    formats = layer.weight_quantizers[0].formats
    reads = layer.input_quantizer
    if reads is not None and reads.decision == weight:
        return CostTerm((weight,), _values(price(f, f) for f in formats))
    if reads is not None and len(reads.formats) > 1:
        values = [[price(w, a) for a in reads.formats] for w in formats]
        return CostTerm((weight, reads.decision), _values(values))
    read = _only_input_format(layer)
    return CostTerm((weight,), _values(price(f, read) for f in formats))


def _values(values: Iterable[float | list[float]]) -> np.ndarray:
    return np.array(list(values), dtype="float64")


def _only_input_format(layer: QuantizedLayer) -> Format:
    if layer.input_quantizer is not None:
        return layer.input_quantizer.formats[0]
    # The layer before may have quantized it.
    return layer.quantize_config.activation_format or parse_format("FP32")
