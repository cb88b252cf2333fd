#include "cpu.hpp"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace resq {

#if defined(__x86_64__)

namespace {

// XCR0 says which register files the operating system saves on a context switch
// (Intel SDM vol. 1, 13.3): without that a supported instruction still faults.
constexpr std::uint64_t kYmmState = 0x06;     // XMM, YMM
constexpr std::uint64_t kZmmState = 0xe0;     // opmask, upper halves of ZMM0-15, ZMM16-31
constexpr std::uint64_t kTileState = 0x60000;  // tile configuration, tiles

std::uint64_t saved_state() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

// Linux gives a process the tiles when it asks (arch/x86/xstate.rst); asking again is free.
bool tiles_granted() {
#if defined(__linux__)
  constexpr long kRequest = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTiles = 18;        // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTiles) == 0;
#else
  return false;
#endif
}

#if defined(__APPLE__)
// macOS enables the ZMM state per thread on its first use, so XCR0 does not show it.
constexpr bool kZmmOnDemand = true;
#else
constexpr bool kZmmOnDemand = false;
#endif

}  // namespace

std::vector<std::string> cpu_features() {
  std::uint32_t a = 0, b1 = 0, c1 = 0, d1 = 0, b7 = 0, c7 = 0, d7 = 0;
  if (!__get_cpuid(1, &a, &b1, &c1, &d1)) return {};
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) b7 = c7 = 0;

  const auto bit = [](std::uint32_t word, int n) { return ((word >> n) & 1u) != 0; };
  const bool xsave = bit(c1, 27);
  const std::uint64_t saved = xsave ? saved_state() : 0;
  const bool ymm = (saved & kYmmState) == kYmmState;
  const bool tiles = (saved & kTileState) == kTileState && bit(d7, 24) && tiles_granted();
  const bool zmm = ymm && (kZmmOnDemand || (saved & kZmmState) == kZmmState);

  const struct {
    const char* name;
    bool here;
  } known[] = {
      {"avx", ymm && bit(c1, 28)},
      {"f16c", ymm && bit(c1, 29)},
      {"fma", ymm && bit(c1, 12)},
      {"avx2", ymm && bit(b7, 5)},
      {"avx512f", zmm && bit(b7, 16)},
      {"avx512dq", zmm && bit(b7, 17)},
      {"avx512bw", zmm && bit(b7, 30)},
      {"avx512vl", zmm && bit(b7, 31)},
      {"avx512vnni", zmm && bit(c7, 11)},
      {"amx_tile", tiles},
      {"amx_int8", tiles && bit(d7, 25)},
  };
  std::vector<std::string> found;
  for (const auto& feature : known) {
    if (feature.here) found.emplace_back(feature.name);
  }
  return found;
}

#else

std::vector<std::string> cpu_features() { return {}; }

#endif

std::vector<std::string> isas() {
  const std::vector<std::string> have = cpu_features();
  [[maybe_unused]] const auto all = [&have](std::initializer_list<const char*> needed) {
    return std::all_of(needed.begin(), needed.end(), [&have](const char* name) {
      return std::find(have.begin(), have.end(), name) != have.end();
    });
  };
  std::vector<std::string> usable;
  [[maybe_unused]] const bool avx512 =
      all({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"});
#if defined(RESQ_HAVE_AMX)
  if (avx512 && all({"amx_tile", "amx_int8"})) usable.emplace_back("amx");
#endif
#if defined(RESQ_HAVE_AVX512)
  if (avx512) usable.emplace_back("avx512");
#endif
#if defined(RESQ_HAVE_AVX2)
  if (all({"avx2", "fma", "f16c"})) usable.emplace_back("avx2");
#endif
  usable.emplace_back("portable");
  return usable;
}

const Kernels* kernels_for(const std::string& isa) {
  const std::vector<std::string> usable = isas();
  if (std::find(usable.begin(), usable.end(), isa) == usable.end())
    throw std::invalid_argument("this machine cannot run the " + isa + " kernels");
#if defined(RESQ_HAVE_AMX)
  if (isa == "amx") return amx_kernels();
#endif
#if defined(RESQ_HAVE_AVX512)
  if (isa == "avx512") return avx512_kernels();
#endif
#if defined(RESQ_HAVE_AVX2)
  if (isa == "avx2") return avx2_kernels();
#endif
  return portable_kernels();
}

}  // namespace resq
