#!/bin/sh
# Keys and signed permissions for every node of nac_ros, for SROS 2.
#   config/security/generate.sh KEYSTORE [ROBOT]
# ROBOT is a name in config/robots or the path of a robot's YAML; vx300s if left out. Needs a sourced
# ROS 2 with sros2. Run again after a robot's topics changed: keys stay, permissions are made anew.
set -eu
keystore=${1:?"say where the keystore is to be, such as ~/nac_ros_keys"}
robot=${2:-vx300s}
here=$(cd "$(dirname "$0")/../.." && pwd)
policy=$(mktemp)
trap 'rm -f "$policy"' EXIT

command -v ros2 >/dev/null || { echo "ros2 is not found: source your ROS 2 first" >&2; exit 2; }
ros2 security --help >/dev/null 2>&1 ||
    { echo "ros2 knows no 'security': install ros-<distribution>-sros2" >&2; exit 2; }
PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}" python3 -m nac_ros.ros.security_policy "$robot" >"$policy"
[ -d "$keystore/enclaves" ] || ros2 security create_keystore "$keystore"
for enclave in $(sed -n 's/.*enclave path="\([^"]*\)".*/\1/p' "$policy"); do
    [ -d "$keystore/enclaves$enclave" ] || ros2 security create_enclave "$keystore" "$enclave"
    ros2 security create_permission "$keystore" "$enclave" "$policy"
done
cat <<END
Done. On every machine of the robot, with the keystore copied there and readable by its user alone:
  export ROS_SECURITY_KEYSTORE=$keystore ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce
Nodes of nac_ros started by its launch files use their own enclaves; give the arm's driver and the cameras
--ros-args --enclave /nac_ros/driver, and your own shell
export ROS_SECURITY_ENCLAVE_OVERRIDE=/nac_ros/operator
END
