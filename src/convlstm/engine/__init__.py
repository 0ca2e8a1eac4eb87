"""The recurrence, one subpackage per array library: `torch`, `jax`, `tensorflow` and `mlx`.

A subpackage holds pure functions on arrays and depends on specs alone. Its modules are:

- `recurrence`: the functions below, with every option of the contract.
- `convolution`, `padding`, `activations`: the operations of the recurrence, in the forms that the library computes
  correctly and fast.
- `durations`, `gates`: parts of the recurrence that `torch` and `jax` keep in separate files.
- `fused` in `torch` and `tensorflow`: a faster implementation of the standard cell, which `sequence` chooses.

`recurrence` has the same functions, with the same parameters, in every subpackage (`tests/engine/test_signatures.py`).
Shapes are written here with channels first, as in PyTorch; the other libraries have channels last.

- `input_convolution(layer, weights, x)`: W_ih ∗ x (frames, 4·hidden, *grid) for x (frames, in_channels, *space).
- `recurrent_convolution(layer, weights, h)`: W_hh ∗ h (batch, 4·hidden, *grid).
- `duration_scale(layer, weights, durations)`: δ, the factor on the candidate (batch, time, 1 or hidden).
- `retention(layer, weights, gaps)`: the factor on c after a gap (batch, time, hidden).
- `step(layer, weights, z_x, state, ...)`: h_t and c_t (equations: `convlstm.reference.recurrence.step`).
- `sequence(layer, weights, x, state, ...)`: one layer in one direction. It returns the outputs, time first
  (time, batch, hidden, *grid), and the final state.

Gates are in the order i, f, g, o. δ and the factor on c have at least float32. The arguments are:

- `layer`: the layer in its normalised form.
- `weights`: its arrays by name, in the layout that `recurrence` describes.
- `x`: frames, time first (time, batch, in_channels, *space), or None for a layer without input.
- `z_x`: W_ih ∗ x of one step, or None for a layer without input.
- `state`: h and c, each (batch, hidden, *grid). h has the type of the convolutions, c at least float32. In `sequence`
  None means zeros, for a layer with input.
- `steps`: number of steps.
- `reverse`: run from the last step to the first. Outputs keep the order of the input.
- `mask`: True where a step is valid (batch, time). None means everywhere.
- `durations`, `gaps`: Δ and the time since the last valid frame (batch, time).
- `candidate_scale`, `retention`: δ and the factor on c_{t-1} of one step, broadcast over the grid.
- `masks`: `LayerMasks` in training. Those of zoneout are time first in `sequence`, and of one step in `step`.

The output of a masked step is zero. With `hold` it is the last valid output before it, or zero if there is none. The
last valid output is h, since a masked step leaves h unchanged. `mask_of_output` returns where the output is h.
"""
