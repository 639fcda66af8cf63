"""Custom Lava Processes, in a package of their own: Lava's model discovery imports every module beside one."""
