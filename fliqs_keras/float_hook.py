"""A hook in which quantized layers compute in float."""

from fliqs_keras.quantized_layers import CallHook


class FloatHook(CallHook):
    """Quantizes nothing; the base of hooks that only look."""

    def weight(self, layer, variable, quantizer):
        return layer.weight_value(variable)

    def input(self, layer, quantizer, inputs):
        return inputs

    def output(self, layer, quantizer, outputs):
        return outputs
