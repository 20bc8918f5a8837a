# Jobs on clusters: a real Slurm, a real sshd, slow links between network namespaces.
add_library(ballot_slurm_cluster STATIC slurm_cluster.cpp)
target_link_libraries(ballot_slurm_cluster PUBLIC ballot_process_support)
ballot_test(process_slurm_test slurm_test.cpp LINK ballot_slurm_cluster LABELS process TIMEOUT 500)
set_tests_properties(process_slurm_test PROPERTIES PROCESSORS 2)
