# Tests of CUDA code: one test source, run by several builds of the plugin.
#
# ballot_cuda_test(NAME file.cpp... LINK libs... [ORDERS order...] [TIMEOUT s] [ENVIRONMENT X=y...] [LONG]) makes one GoogleTest
# binary and a CTest entry of it for each plugin: NAME_simt (label simt: the kernels' source, run by g++'s code on the
# CPU), others that BALLOT_CUDA_TEST_PLUGINS names, and with BALLOT_CUDA NAME_gpu (label gpu: the real plugin; skipped,
# saying so, where there is no GPU). ORDERS are those between streams that tests/cuda/stand_ins/work_queue.h knows;
# random:1 without it, and all but the first only on simt: NAME_simt_lazy, NAME_simt_random:7.
#
# With BALLOT_SANITIZE there is simt only, of label simt-asan; what CI builds and runs of it is the target
# ballot_simt_asan, all but what is LONG (label simt-asan-long).
#
# ballot_cuda_test_plugin(TARGET [DEFINITIONS ...] [LINK libs...]) makes a variant of the plugin from the same sources
# by the C++ compiler: each .cu through a wrapper that includes it, with BALLOT_SIMT, and what is in LINK in place of
# the CUDA libraries.

# Only the headers are needed; nothing of the toolkit is linked.
find_package(CUDAToolkit QUIET)
find_path(BALLOT_CUDA_HEADERS cuda_runtime.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ENV CUDA_HOME PATH_SUFFIXES include)
if(NOT BALLOT_CUDA_HEADERS)
  message(STATUS "No CUDA headers (cuda_runtime.h): the tests of CUDA code are not built")
endif()

set(BALLOT_SIMT_LABEL simt)
if(BALLOT_SANITIZE)
  set(BALLOT_SIMT_LABEL simt-asan)
  add_custom_target(ballot_simt_asan)
endif()
set(BALLOT_CUDA_TEST_PLUGINS simt=ballot_cuda_simt)  # name=target
include(cmake/cuda_ptx.cmake)  # and ptx

# These tests, of whatever label, are among those that CI runs with the sanitizers.
function(ballot_simt_asan)
  if(BALLOT_SANITIZE)
    add_dependencies(ballot_simt_asan ${ARGN})
  endif()
endfunction()

function(ballot_cuda_test_plugin name)
  cmake_parse_arguments(T "" "" "DEFINITIONS;LINK" ${ARGN})
  set(sources)
  foreach(source ${BALLOT_CUDA_SOURCES})
    if(source IN_LIST BALLOT_CUDA_LIBRARIES_OPENED)
      continue()  # the stand-ins have it
    elseif(source MATCHES "\\.cu$")
      file(RELATIVE_PATH relative ${PROJECT_SOURCE_DIR} ${source})
      set(wrapper ${PROJECT_BINARY_DIR}/cuda_wrappers/${relative}.cpp)
      file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${source}\"\n" @ONLY)
      list(APPEND sources ${wrapper})
    else()
      list(APPEND sources ${source})
    endif()
  endforeach()
  add_library(${name} MODULE ${sources})
  # Apart from the programs, so that no run finds it by itself.
  set_target_properties(${name} PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/cuda_test_plugins POSITION_INDEPENDENT_CODE ON)
  target_compile_definitions(${name} PRIVATE BALLOT_SIMT ${T_DEFINITIONS})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/cuda)
  target_include_directories(${name} SYSTEM PRIVATE ${BALLOT_CUDA_HEADERS})
  target_link_libraries(${name} PRIVATE ballot_options ${T_LINK} fmt::fmt)
  target_compile_options(${name} PRIVATE -ffp-contract=off -Wno-unknown-pragmas)
  # Its own definitions answer its own calls, whatever the program exports; visible, so that kernels have names.
  target_link_options(${name} PRIVATE -Wl,-Bsymbolic)
  if(NOT BALLOT_SANITIZE)
    target_link_options(${name} PRIVATE -Wl,-z,defs)
  endif()
endfunction()

function(ballot_cuda_test name)
  if(NOT BALLOT_CUDA_HEADERS)
    return()
  endif()
  cmake_parse_arguments(T "LONG" "TIMEOUT" "LINK;ENVIRONMENT;ORDERS" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 600)
  endif()
  if(BALLOT_SANITIZE)
    math(EXPR T_TIMEOUT "5 * ${T_TIMEOUT}")
  endif()
  set(simt_label ${BALLOT_SIMT_LABEL})
  if(BALLOT_SANITIZE AND T_LONG)
    set(simt_label simt-asan-long)
  endif()
  if(NOT T_ORDERS)
    set(T_ORDERS random:1)
  endif()
  list(POP_FRONT T_ORDERS first_order)
  set(environment "OMP_WAIT_POLICY=passive;OMP_NUM_THREADS=2;${T_ENVIRONMENT}")
  add_executable(${name} ${T_UNPARSED_ARGUMENTS} ${PROJECT_SOURCE_DIR}/tests/cuda/cuda_test_main.cpp)
  target_link_libraries(${name} PRIVATE ${T_LINK} ballot_core ballot_options GTest::gmock GTest::gtest rapidcheck)
  target_compile_definitions(${name} PRIVATE BALLOT_SHARED_DATA="${PROJECT_SOURCE_DIR}/../shared/data")
  foreach(pair ${BALLOT_CUDA_TEST_PLUGINS})
    string(REGEX MATCH "^([^=]+)=(.+)$" found ${pair})
    set(kind ${CMAKE_MATCH_1})
    set(label ${kind})
    set(plugin ${CMAKE_MATCH_2})
    if(kind STREQUAL simt)
      set(label ${simt_label})
    endif()
    add_dependencies(${name} ${plugin})
    add_test(NAME ${name}_${kind} COMMAND ${name})
    set_tests_properties(${name}_${kind} PROPERTIES LABELS ${label} TIMEOUT ${T_TIMEOUT}
      ENVIRONMENT "${environment};BALLOT_CUDA_PLUGIN=$<TARGET_FILE:${plugin}>;BALLOT_STAND_IN_STREAMS=${first_order}")
  endforeach()
  foreach(order ${T_ORDERS})
    add_test(NAME ${name}_simt_${order} COMMAND ${name})
    set_tests_properties(${name}_simt_${order} PROPERTIES LABELS ${simt_label} TIMEOUT ${T_TIMEOUT} ENVIRONMENT
      "${environment};BALLOT_CUDA_PLUGIN=$<TARGET_FILE:ballot_cuda_simt>;BALLOT_STAND_IN_STREAMS=${order}")
  endforeach()
  if(NOT T_LONG)
    ballot_simt_asan(${name})
  endif()
  if(BALLOT_CUDA)
    add_dependencies(${name} ballot_cuda)
    add_test(NAME ${name}_gpu COMMAND ${name})
    set_tests_properties(${name}_gpu PROPERTIES LABELS gpu TIMEOUT ${T_TIMEOUT} SKIP_RETURN_CODE 77
      ENVIRONMENT "${environment};BALLOT_CUDA_PLUGIN=$<TARGET_FILE:ballot_cuda>")
  endif()
endfunction()
