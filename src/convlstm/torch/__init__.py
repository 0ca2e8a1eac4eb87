"""The ConvLSTM for PyTorch."""

from convlstm.engine.torch.buffers import release_memory as release_memory
from convlstm.torch.cell import ConvLSTMCell as ConvLSTMCell
from convlstm.torch.fixing import fixed_weights as fixed_weights
from convlstm.torch.forecaster import Forecaster as Forecaster
from convlstm.torch.layer import ConvLSTM as ConvLSTM
from convlstm.torch.loading import load as load
from convlstm.torch.row_parts import divide_rows as divide_rows
from convlstm.torch.stateful import StatefulConvLSTM as StatefulConvLSTM
from convlstm.torch.weights import load_canonical as load_canonical
from convlstm.torch.weights import save as save
from convlstm.torch.weights import to_canonical as to_canonical
