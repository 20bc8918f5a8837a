ballot_cuda_test(collectives_vote_cuda_test vote_cuda_test.cpp LINK ballot_collectives ORDERS random:1 lazy)
ballot_cuda_test(collectives_counts_cuda_test lanes_cuda_test.cpp count_planes_cuda_test.cpp LINK ballot_collectives)
# Ranks are threads, each with a GPU of its own. LONG, so not under AddressSanitizer in CI: what a thread has for itself of
# the opened plugin lies where another thread's stack was, and is taken for an overflow of it.
ballot_cuda_test(collectives_nccl_test nccl_test.cpp LINK ballot_collectives LONG
  ENVIRONMENT BALLOT_STAND_IN_DEVICES=5 ORDERS random:1 eager lazy random:2)
ballot_cuda_test(collectives_device_mean_test device_mean_test.cpp LINK ballot_collectives LONG
  ENVIRONMENT BALLOT_STAND_IN_DEVICES=5 ORDERS random:1 eager lazy random:2)
if(BALLOT_CUDA AND BALLOT_NCCL_HEADERS)
  find_library(BALLOT_NCCL_LIBRARY libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR})
  if(BALLOT_NCCL_LIBRARY)
    ballot_test(nccl_library_test nccl_library_test.cpp ${PROJECT_SOURCE_DIR}/collectives/nccl_library.cpp
      LINK ballot_core LABELS cuda-compile)
    target_include_directories(nccl_library_test SYSTEM PRIVATE ${BALLOT_NCCL_HEADERS})
    cmake_path(GET BALLOT_NCCL_LIBRARY PARENT_PATH folder)
    set_target_properties(nccl_library_test PROPERTIES BUILD_RPATH ${folder})
  endif()
endif()
