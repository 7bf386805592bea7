"""What composing costs, beside PEFT, llama.cpp and the machine's own limits."""

# Before torch: it sets how OpenMP's threads wait, as in every process of the project.
import composer  # noqa: F401
