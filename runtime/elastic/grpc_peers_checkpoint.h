// A checkpoint folder as frames, and frames as a checkpoint folder.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/clock.h"
#include "runtime/elastic/grpc_peers_hub.h"
#include "runtime/elastic/peer_frames.h"

namespace ballot {

inline constexpr std::size_t kMostCheckpointFiles = 1024;
inline constexpr std::uint64_t kMostManifestBytes = std::uint64_t{16} << 20;

struct ManifestFile {
  std::string path;  // inside the folder, by names alone
  std::uint64_t size = 0;
  std::string xxh3;  // of its bytes, 16 hexadecimal digits
};
// What the text of trainer/manifest.json names. CorruptFile where it is none, and for a path that
// leads out of its folder or onto the manifest itself.
std::vector<ManifestFile> parse_manifest(const std::string& text);

// All of a folder's files are open before the first leaves, so that it may be deleted meanwhile.
// Returns early once `write` says no. WorldError where it cannot be read.
void send_checkpoint(const std::string& folder, const std::function<bool(OutgoingFrame)>& write);

// Peers::download(). Sizes and digests are checked as the bytes arrive.
std::string copy_checkpoint(const std::shared_ptr<PeersHub>& hub, const Source& source,
                            const std::string& folder, Deadline deadline);

}  // namespace ballot
