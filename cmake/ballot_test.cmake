# ballot_test(NAME file.cpp... LINK libs... [LABELS unit])  one GoogleTest binary, one CTest entry.
# ballot_mpi_test(NAME RANKS n file.cpp... LINK libs...)    the same binary under mpirun, label `ranks`.
function(ballot_test name)
  cmake_parse_arguments(T "" "TIMEOUT" "LINK;LABELS" ${ARGN})
  if(NOT T_LABELS)
    set(T_LABELS unit)
  endif()
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 600)  # says nothing but that it hangs
  endif()
  add_executable(${name} ${T_UNPARSED_ARGUMENTS})
  target_link_libraries(${name} PRIVATE ${T_LINK} ballot_options GTest::gmock GTest::gtest_main rapidcheck)
  target_compile_definitions(${name} PRIVATE BALLOT_SHARED_DATA="${PROJECT_SOURCE_DIR}/../shared/data")
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS "${T_LABELS}" TIMEOUT ${T_TIMEOUT}
    ENVIRONMENT "OMP_WAIT_POLICY=passive;OMP_NUM_THREADS=2")
endfunction()

function(ballot_mpi_test name)
  cmake_parse_arguments(T "" "RANKS;TIMEOUT" "LINK" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 600)  # says nothing but that it hangs
  endif()
  if(T_UNPARSED_ARGUMENTS)  # a second number of ranks of the same binary gives no files
    add_executable(${name} ${T_UNPARSED_ARGUMENTS})
    target_link_libraries(${name} PRIVATE ${T_LINK} ballot_options GTest::gmock rapidcheck MPI::MPI_CXX)
    target_compile_definitions(${name} PRIVATE BALLOT_SHARED_DATA="${PROJECT_SOURCE_DIR}/../shared/data")
  endif()
  add_test(NAME ${name}_${T_RANKS} COMMAND mpirun --allow-run-as-root --oversubscribe --bind-to none
    --mca mpi_yield_when_idle 1 --mca btl_base_warn_component_unused 0 -n ${T_RANKS} $<TARGET_FILE:${name}>)
  set_tests_properties(${name}_${T_RANKS} PROPERTIES LABELS ranks TIMEOUT ${T_TIMEOUT} PROCESSORS 2
    ENVIRONMENT "OMP_WAIT_POLICY=passive;OMP_NUM_THREADS=1")
endfunction()
