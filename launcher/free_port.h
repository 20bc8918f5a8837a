// A port of this machine's loopback that nobody listens at. Another process may take it before it
// is used; whoever does use it says so.
#pragma once

namespace ballot {

int find_free_port();

}  // namespace ballot
