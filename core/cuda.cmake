# The ground's part of the CUDA plugin: what it needs of ballot_core, compiled once more for it, and CudaCore.
foreach(file error clock tensor buffer copy device stream cuda/cuda_check cuda/cuda_device cuda/cuda_memory cuda/cuda_streams cuda/cuda_events
    cuda/cublas_matmul cuda/plugin_cuda)
  list(APPEND BALLOT_CUDA_SOURCES ${PROJECT_SOURCE_DIR}/core/${file}.cpp)
endforeach()
list(APPEND BALLOT_CUDA_SOURCES ${PROJECT_SOURCE_DIR}/core/cuda/round_to_bf16_cuda.cu)
