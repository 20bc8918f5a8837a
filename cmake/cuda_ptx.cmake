# nvcc for the tests that need the compiler and no GPU: the kernels as PTX (tests/cuda/ptx) and the compile checks
# (tests/cuda/compile). Found apart from BALLOT_CUDA: they run wherever the toolkit is.
find_program(BALLOT_NVCC nvcc HINTS ${CUDAToolkit_BIN_DIR} ENV CUDA_HOME PATH_SUFFIXES bin)
if(BALLOT_SANITIZE)
  set(BALLOT_NVCC FALSE)  # the sanitizers look at what g++ compiles; the interpreter of PTX looks for itself
elseif(BALLOT_NVCC AND BALLOT_CUDA_HEADERS)
  list(APPEND BALLOT_CUDA_TEST_PLUGINS ptx=ballot_cuda_ptx)
else()
  message(STATUS "No nvcc: the kernels' PTX is not run (tests of label ptx), nor are its checks (label cuda-compile)")
endif()
