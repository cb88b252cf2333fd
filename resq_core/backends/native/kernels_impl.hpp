// The kernels, compiled once per instruction set: the including file sets RESQ_ISA to the
// name of the namespace. No include guard is needed: each translation unit includes it once.
//
// Everything here lies in resq::RESQ_ISA or its anonymous namespace, and no std:: template or
// other inline function of a shared header may be instantiated: the linker keeps one copy of
// such a function, which may be the one with wider instructions, and an older processor would
// then meet them outside the kernels.

#define RESQ_NAME_(text) #text
#define RESQ_NAME(text) RESQ_NAME_(text)

namespace resq::RESQ_ISA {

const char* name();
const char* name() { return RESQ_NAME(RESQ_ISA); }

}  // namespace resq::RESQ_ISA
