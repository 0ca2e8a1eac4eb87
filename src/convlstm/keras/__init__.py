"""The ConvLSTM for Keras 3, on its TensorFlow, JAX and PyTorch backends."""

from convlstm.keras.cell import ConvLSTM1DCell as ConvLSTM1DCell
from convlstm.keras.cell import ConvLSTM2DCell as ConvLSTM2DCell
from convlstm.keras.cell import ConvLSTM3DCell as ConvLSTM3DCell
from convlstm.keras.compat import DurationAwareConvLSTMCell as DurationAwareConvLSTMCell
from convlstm.keras.forecaster import Forecaster as Forecaster
from convlstm.keras.layer import ConvLSTM1D as ConvLSTM1D
from convlstm.keras.layer import ConvLSTM2D as ConvLSTM2D
from convlstm.keras.layer import ConvLSTM3D as ConvLSTM3D
from convlstm.keras.loading import load as load
from convlstm.keras.rnn import RNN as RNN
from convlstm.keras.stack_layer import ConvLSTMStack as ConvLSTMStack
from convlstm.keras.weights import load_canonical as load_canonical
from convlstm.keras.weights import save as save
from convlstm.keras.weights import to_canonical as to_canonical
