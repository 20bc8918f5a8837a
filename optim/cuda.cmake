# This floor's part of the CUDA plugin. The kernels give the CPU's very bits.
list(APPEND BALLOT_CUDA_SOURCES ${PROJECT_SOURCE_DIR}/optim/optim_cuda.cpp)
foreach(file square_sum direction newton_schulz replicated_update)
  list(APPEND BALLOT_CUDA_SOURCES ${PROJECT_SOURCE_DIR}/optim/${file}_cuda.cu)
  list(APPEND BALLOT_CUDA_NO_FMA ${PROJECT_SOURCE_DIR}/optim/${file}_cuda.cu)
endforeach()
