# This floor's part of the CUDA plugin. The kernels give the CPU's very bits.
list(APPEND BALLOT_CUDA_SOURCES ${PROJECT_SOURCE_DIR}/collectives/vote_cuda.cpp)
foreach(file ballot count_planes lanes mean tally)
  list(APPEND BALLOT_CUDA_SOURCES ${PROJECT_SOURCE_DIR}/collectives/${file}_cuda.cu)
  list(APPEND BALLOT_CUDA_NO_FMA ${PROJECT_SOURCE_DIR}/collectives/${file}_cuda.cu)
endforeach()
# NCCL is opened by the plugin, not linked: only its header is needed, and what tests link in its place stands for
# nccl_library.cpp.
find_path(BALLOT_NCCL_HEADERS nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ENV CUDA_HOME PATH_SUFFIXES include)
if(BALLOT_NCCL_HEADERS)
  set(BALLOT_CUDA_LIBRARIES_OPENED ${PROJECT_SOURCE_DIR}/collectives/nccl_library.cpp)
  list(APPEND BALLOT_CUDA_SOURCES ${PROJECT_SOURCE_DIR}/collectives/nccl_communicator.cpp
    ${BALLOT_CUDA_LIBRARIES_OPENED})
else()
  list(APPEND BALLOT_CUDA_SOURCES ${PROJECT_SOURCE_DIR}/collectives/nccl_absent.cpp)
endif()
