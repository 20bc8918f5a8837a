# The CUDA backend, libballot_cuda.so: one plugin of every floor's CUDA sources, which `ballot` opens when a run asks
# for a GPU. `ballot` itself links nothing of CUDA.
#
# Each floor lists its sources (absolute) in <floor>/cuda.cmake: BALLOT_CUDA_SOURCES, and of those in BALLOT_CUDA_NO_FMA
# the .cu files whose results must have the CPU's very bits.
set(BALLOT_CUDA_SOURCES)
set(BALLOT_CUDA_NO_FMA)
foreach(floor core models collectives optim)
  include(${floor}/cuda.cmake)
endforeach()

if(BALLOT_CUDA)
  if(NOT CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES "80;90-real;100-real")  # 80 also as PTX, for what comes later
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    message(FATAL_ERROR "BALLOT_CUDA=ON needs the CUDA toolkit (12.8 or newer), and nvcc is not found: put it on PATH, "
      "set CUDACXX, or configure without BALLOT_CUDA")
  endif()
  enable_language(CUDA)
  # CMake 3.25 has no entry for nvcc's C++20.
  if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION AND CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.0)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_COMPILE_FEATURES cuda_std_20)
    list(APPEND CMAKE_CUDA_COMPILE_FEATURES cuda_std_20)
  endif()
  set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)
  find_package(CUDAToolkit REQUIRED)
  if(CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE})
  endif()

  add_library(ballot_cuda MODULE ${BALLOT_CUDA_SOURCES})
  set_target_properties(ballot_cuda PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin
    CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED ON POSITION_INDEPENDENT_CODE ON
    CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    INSTALL_RPATH_USE_LINK_PATH ON)  # installed it still finds CUDA's libraries
  target_include_directories(ballot_cuda PRIVATE ${PROJECT_SOURCE_DIR})
  if(BALLOT_NCCL_HEADERS)
    target_include_directories(ballot_cuda SYSTEM PRIVATE ${BALLOT_NCCL_HEADERS})
  endif()
  target_link_libraries(ballot_cuda PRIVATE CUDA::cudart CUDA::cublas fmt::fmt ${CMAKE_DL_LIBS})
  target_link_options(ballot_cuda PRIVATE -Wl,--exclude-libs,ALL -Wl,-z,defs -Wl,--as-needed)
  # The name `ballot`: see core/cuda/kernel.h. fmt 9 takes nvcc for a compiler without constexpr. -lineinfo costs
  # nothing at run time and names the line in a profile.
  target_compile_options(ballot_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wno-stringop-overflow -Wno-array-bounds -ffp-contract=off>
    $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -lineinfo -Dballot=ballot_of_cuda -DFMT_USE_CONSTEXPR=1
      -Wdefault-stream-launch -Xcompiler=-Wall,-Wextra,-ffp-contract=off>)
  if(BALLOT_WERROR)
    target_compile_options(ballot_cuda PRIVATE
      $<$<COMPILE_LANGUAGE:CXX>:-Werror> "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>")
  endif()
  if(BALLOT_CUDA_NO_FMA)
    set_source_files_properties(${BALLOT_CUDA_NO_FMA} PROPERTIES COMPILE_OPTIONS -fmad=false)
  endif()
  install(TARGETS ballot_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
