"""What is done with a pre-trained encoder."""

from keras_splitmask.transfer.classify import Classifier
