from resnet101_detectron2.plain import load
