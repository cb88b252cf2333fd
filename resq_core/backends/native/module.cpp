// The Python face of the native backend.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "cpu.hpp"

namespace nb = nanobind;

NB_MODULE(_native, m) {
  m.doc() = "Native CPU kernels; resq_core.backends.extension loads them.";
  m.def("cpu_features", &resq::cpu_features,
        "Instruction-set extensions that processor and operating system support.");
  m.def("isas", &resq::isas, "Kernel variants that can run here, best first.");
}
