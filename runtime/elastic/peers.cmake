# ballot_peers: a worker's connections to other workers. Its header brings no gRPC.
add_library(ballot_peers STATIC
  elastic/peer_frames.cpp elastic/peer_frames_pieces.cpp elastic/peer_frames_requests.cpp
  elastic/grpc_peers.cpp elastic/grpc_peers_ends.cpp elastic/grpc_peers_events.cpp elastic/grpc_peers_links_in.cpp
  elastic/grpc_peers_links_out.cpp elastic/grpc_peers_reader.cpp elastic/grpc_peers_fetch.cpp
  elastic/grpc_peers_serving.cpp elastic/grpc_peers_checkpoint.cpp)
target_include_directories(ballot_peers PRIVATE ${XXHASH_INCLUDE_DIR})
target_link_libraries(ballot_peers PUBLIC ballot_protocol ballot_coordinator
  PRIVATE ballot_proto nlohmann_json::nlohmann_json)
