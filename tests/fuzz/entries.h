// Where untrusted bytes enter, one function a format: any bytes in, nothing but WorldError may come
// out.
//
// Shared by the libFuzzer targets and by the mutation test that every build runs.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace ballot::fuzz {

struct Entry {
  const char* name;
  // Returns whether the bytes were accepted. Throws only what is a bug.
  bool (*run)(std::span<const std::byte> bytes);
  std::vector<std::string> seeds;  // well-formed inputs
};

const std::vector<Entry>& entries();
std::vector<Entry> with_coordinator_entries(std::vector<Entry> entries);  // a part of them
std::vector<Entry> with_peer_entries(std::vector<Entry> entries);         // another
std::vector<Entry> with_checkpoint_entries(std::vector<Entry> entries);
std::vector<Entry> with_data_entries(std::vector<Entry> entries);
std::vector<Entry> with_cluster_entries(std::vector<Entry> entries);

}  // namespace ballot::fuzz
