"""How good detections are: accuracy, streaming accuracy, operating point, calibration."""
