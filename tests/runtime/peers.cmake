# Workers' connections to each other: frames as bytes, and real sockets.
ballot_test(peers_frames_test peers_frames_test.cpp LINK ballot_peers)
target_include_directories(peers_frames_test PRIVATE ${XXHASH_INCLUDE_DIR})
ballot_test(peers_test peers_test.cpp peers_refusal_test.cpp peers_fetch_test.cpp peers_liar_test.cpp
  LINK ballot_peers ballot_checkpoint ballot_proto)
target_include_directories(peers_test PRIVATE ${XXHASH_INCLUDE_DIR})
ballot_test(peers_process_test peers_process_test.cpp LINK ballot_peers LABELS process)
