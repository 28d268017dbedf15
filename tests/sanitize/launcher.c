/* An interpreter like any other, but that the sanitizers are linked into it, with their options: also
 * what is started without an environment has them. REPORT is the path of reports, without the pid. */
#include <Python.h>
#include <stdlib.h>
#include <string.h>

const char *__asan_default_options(void)
{
    /* A leak is told by its report; an exit code of its own would make tests of exit codes fail.
     * malloc is expected to return NULL for what cannot be had. */
    return "abort_on_error=1:detect_leaks=1:exitcode=0:allocator_may_return_null=1:log_path=" REPORT;
}

const char *__ubsan_default_options(void)
{
    return "print_stacktrace=1:halt_on_error=1:log_path=" REPORT;
}

/* Blocks that other people's code loses: after a fork CPython makes its locks anew. */
const char *__lsan_default_suppressions(void)
{
    return "leak:_pydantic_core\nleak:PyThread_allocate_lock\n";
}

/* What pytest and client libraries lose is not asked for. */
static int is_nutproxy;

int __lsan_is_turned_off(void)
{
    return !is_nutproxy;
}

const char *__lsan_default_options(void)
{
    return "print_suppressions=0";
}

int main(int argc, char **argv)
{
    for (int at = 1; at < argc; at++)
        is_nutproxy |= strcmp(argv[at], "nutproxy") == 0;
    /* Every object in a block of its own. */
    setenv("PYTHONMALLOC", "malloc", 1);
    return Py_BytesMain(argc, argv);
}
