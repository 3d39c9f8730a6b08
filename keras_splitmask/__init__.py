from keras_splitmask import losses, tokenizers, training
from keras_splitmask.decoder import Decoder
from keras_splitmask.encoder import SIZES, Encoder
from keras_splitmask.split import Split
from keras_splitmask.splitmask import SplitMask
