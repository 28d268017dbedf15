# Does the pattern match the whole text? `work` is decreased by the number of steps; when nothing is
# left of it, the answer is no.
cdef bint glob_match(const char* pattern, Py_ssize_t pattern_length, const char* text,
                     Py_ssize_t length, Py_ssize_t* work) noexcept
