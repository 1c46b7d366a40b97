export PATH="${NB_PYTHON_PREFIX}/bin:${PATH}"
