"""YOLOv4 with exchangeable backbones."""
