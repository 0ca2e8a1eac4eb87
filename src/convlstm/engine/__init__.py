"""The recurrence, one subpackage per array library: `torch`, `jax`, `tensorflow` and `mlx`.

A subpackage depends on specs alone. It holds pure functions on arrays, and every subpackage has these modules:

- `recurrence`: the functions below, with every option of the contract.
- `convolution`, `padding`, `activations`: the operations that `recurrence` is built from. Their modules say which
  operations of the library they replace, and why.
- `durations` and `gates` where a subpackage keeps them in files of their own. `torch` and `tensorflow` also have
  `fused`, a faster implementation of the standard cell, which `recurrence.sequence` chooses.

`recurrence` has the same functions in every subpackage, with the same parameters (`tests/engine/test_signatures.py`):

    input_convolution(layer, weights, x)        W_ih ∗ x (frames, 4·hidden, *grid) for all frames at once
    recurrent_convolution(layer, weights, h)    W_hh ∗ h (batch, 4·hidden, *grid)
    duration_scale(layer, weights, durations)   δ, the factor on the candidate (batch, time, 1 or hidden)
    retention(layer, weights, gaps)             the factor on c after a gap (batch, time, hidden)
    step(layer, weights, z_x, state, ...)       h_t and c_t (equations: `convlstm.reference.recurrence.step`)
    sequence(layer, weights, x, state, ...)     one layer in one direction: outputs, time first, and the final state

The output of a masked step is zero, or with `hold` the last valid output before it. That is h, which a masked step
leaves unchanged; before the first valid step it is zero. `mask_of_output` returns where the output is h.

Shapes are written with channels first, as PyTorch has them; the other libraries have channels last. δ and the factor
on c have at least float32. Gates are in the order i, f, g, o. The arguments are:

    layer             the layer in its normalised form (`convlstm.spec.layer.LayerSpec`)
    weights           its arrays by name; `recurrence` gives the layout
    x                 frames, time first (time, batch, in_channels, *space); None for a layer without input.
                      `input_convolution` takes (frames, in_channels, *space)
    z_x               W_ih ∗ x of one step; None for a layer without input
    state             h and c, each (batch, hidden, *grid). h is in the type of the convolutions, c in at least float32.
                      In `sequence` None means zeros, for a layer with input
    steps             number of steps, the length of time
    reverse           run from the last step to the first; outputs keep the order of the input
    mask              True where a step is valid (batch, time); None means everywhere
    durations         Δ (batch, time), for a duration strategy
    gaps              time since the last valid frame (batch, time), for memory decay
    candidate_scale   δ of one step, broadcast over the grid
    retention         factor on c_{t-1}, broadcast over the grid
    masks             `LayerMasks` of dropout and zoneout in training (see `convlstm.spec.masks`);
                      those of zoneout time first in `sequence`, of one step in `step`
"""
