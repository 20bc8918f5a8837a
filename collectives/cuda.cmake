# This floor's part of the CUDA plugin. The kernels give the CPU's very bits.
list(APPEND BALLOT_CUDA_SOURCES ${PROJECT_SOURCE_DIR}/collectives/vote_cuda.cpp)
foreach(file ballot tally)
  list(APPEND BALLOT_CUDA_SOURCES ${PROJECT_SOURCE_DIR}/collectives/${file}_cuda.cu)
  list(APPEND BALLOT_CUDA_NO_FMA ${PROJECT_SOURCE_DIR}/collectives/${file}_cuda.cu)
endforeach()
