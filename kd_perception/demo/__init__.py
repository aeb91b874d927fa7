"""The demo: a camera and the detector node as two processes over DDS, and a recorder that shows what came out."""
