add_library(ballot_local_job STATIC local_job.cpp mpirun.cpp signals.cpp line_output.cpp child_process.cpp shell_words.cpp program_call.cpp)
target_link_libraries(ballot_local_job PUBLIC ballot_core)
