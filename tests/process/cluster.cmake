# Jobs on clusters: a real Slurm, a real sshd, slow links between network namespaces.
add_library(ballot_slurm_cluster STATIC slurm_cluster.cpp)
target_link_libraries(ballot_slurm_cluster PUBLIC ballot_process_support)
ballot_test(process_slurm_test slurm_test.cpp LINK ballot_slurm_cluster LABELS process TIMEOUT 500)
set_tests_properties(process_slurm_test PROPERTIES PROCESSORS 2)
add_library(ballot_ssh_nodes STATIC ssh_nodes.cpp)
target_link_libraries(ballot_ssh_nodes PUBLIC ballot_process_support)
ballot_test(process_ssh_test ssh_test.cpp LINK ballot_ssh_nodes LABELS process TIMEOUT 500)
set_tests_properties(process_ssh_test PROPERTIES PROCESSORS 2)
