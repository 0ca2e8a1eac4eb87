"""The ConvLSTM for MLX."""

from convlstm.mlx.cell import ConvLSTMCell as ConvLSTMCell
from convlstm.mlx.forecaster import Forecaster as Forecaster
from convlstm.mlx.layer import ConvLSTM as ConvLSTM
from convlstm.mlx.loading import load as load
from convlstm.mlx.stateful import StatefulConvLSTM as StatefulConvLSTM
from convlstm.mlx.weights import load_canonical as load_canonical
from convlstm.mlx.weights import save as save
from convlstm.mlx.weights import to_canonical as to_canonical
