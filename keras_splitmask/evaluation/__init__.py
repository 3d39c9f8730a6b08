"""How good are the features: neighbours, linear probes, and pictures of what is inpainted."""

from keras_splitmask.evaluation.linear import block_features, linear_probe
from keras_splitmask.evaluation.neighbours import NeighbourProbe, extract, standardise, weighted_knn
from keras_splitmask.evaluation.pictures import inpaint, inpaint_masked, inpaints, save_inpainting
from keras_splitmask.evaluation.report import read_metrics, write_report
