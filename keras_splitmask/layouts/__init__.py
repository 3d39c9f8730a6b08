"""Encoder weights by the names of other libraries, Hugging Face's transformers and timm, in safetensors files."""

from keras_splitmask.layouts.names import LAYOUTS
from keras_splitmask.layouts.reading import Foreign, find, read
from keras_splitmask.layouts.writing import write
